/** What a daemon does in a step: claims, settles, heartbeats, and what its loop does next. */
import type { Outbox } from '../../../src/outbox/outbox.ts';
import type { ClaimedRow, Settlement } from '../../../src/outbox/rows.ts';
import type { DeedOf } from './deeds.ts';
import type { Stage } from './stage.ts';
import { STORES, type Step } from './steps.ts';
import type { Worker } from './worker.ts';

export async function work(
  stage: Stage,
  worker: Worker,
  step: Extract<Step, { worker: number }>,
): Promise<void> {
  switch (step.do) {
    case 'go on':
      return await loop(stage, worker, step);
    case 'settle':
      return await settle(stage, worker, step);
    case 'claim a suspect':
      return await claimSuspect(stage, worker);
    case 'progress': {
      const row = worker.ever.at(step.row % worker.ever.length);
      if (row === undefined) return;
      const objects = (row.objects ?? 0) + step.objects;
      return await stage.start(worker.lanes.beat, { kind: 'progress', row, objects, names: [row.id] }, lane =>
        lane.outbox.progress([{ row, objects, bytes: null }]),
      );
    }
    case 'heartbeat':
      return await stage.start(
        worker.lanes.beat,
        { kind: 'heartbeat', worker: worker.id, alive: false, names: [] },
        async (lane, deed) => {
          (deed as DeedOf<'heartbeat'>).alive = (await lane.outbox.heartbeat(worker.id, 3_600_000)).alive;
        },
      );
    case 'hand back strays': {
      // As in src/reconciler/housekeeping.ts: never beside a claim.
      if (worker.lanes.claim.active) return;
      const inHand = [...worker.hand];
      return await stage.start(
        worker.lanes.settle,
        { kind: 'hand back strays', worker: worker.id, inHand, names: stage.runningOf(worker.id) },
        async lane => void (await lane.outbox.handBackStrays(worker.id, inHand)),
      );
    }
    case 'deregister':
      return await stage.start(
        worker.lanes.beat,
        { kind: 'deregister', worker: worker.id, handedBack: 0, names: stage.runningOf(worker.id) },
        async (lane, deed) => {
          (deed as DeedOf<'deregister'>).handedBack = await lane.outbox.deregister(worker.id);
        },
      );
    case 'expire':
      return await stage.expire(worker);
    case 'abandon':
      if (worker.abandon()) stage.saw('abandoned');
      return;
    case 'mark':
      if (!worker.lanes.claim.active) await worker.setMark();
      return;
    case 'poll':
      if (worker.phase === 'asleep') worker.wake();
      return;
    case 'disarm':
      await worker.wakeUp.disarm();
      worker.armed = new Set();
      if (worker.phase !== 'claim' && !worker.lanes.claim.active) worker.phase = 'claim';
      return;
  }
}

/** What a daemon's loop does next: see `src/reconciler/loop.ts`. */
export async function loop(
  stage: Stage,
  worker: Worker,
  step: Extract<Step, { do: 'go on' }>,
): Promise<void> {
  const lane = worker.lanes.claim;
  if (lane.active) return await stage.goOn(lane, 'commit');
  switch (worker.phase) {
    case 'arm':
      return await worker.arm();
    case 'ask':
      await worker.ask();
      if (worker.isAsleep) stage.saw('asleep');
      return;
    case 'asleep':
      await stage.fence();
      if (worker.rung) stage.saw('woken by a ring');
      else if (worker.wakeAt <= performance.now()) stage.saw('woken by the time');
      else return;
      return worker.wake();
    default: {
      worker.start = worker.floors.begin();
      worker.mark = step.mark;
      const rooms = new Map(STORES.map(store => [store, step.room]));
      const floors = STORES.map(store => [store, worker.floors.from(store, worker.start)] as const);
      const from = new Map(
        floors.filter((entry): entry is [(typeof STORES)[number], number] => entry[1] !== undefined),
      );
      stage.saw(worker.start.sweep ? 'claim from the floor' : 'claim from the cursor');
      await stage.start(
        lane,
        { kind: 'claim', worker: worker.id, rooms, from, rows: [], paused: new Set(), names: [] },
        async (_, deed) => {
          const found = await lane.outbox.claim(worker.id, rooms, [], from);
          Object.assign(deed, found);
        },
        step.pause ? 'before claiming' : undefined,
      );
      await stage.unlessHeld(lane, step);
    }
  }
}

export async function claimSuspect(stage: Stage, worker: Worker): Promise<void> {
  await stage.start(
    worker.lanes.claim,
    { kind: 'claim a suspect', worker: worker.id, rows: [], names: [] },
    async (lane, deed) => {
      const row = await lane.outbox.claimSuspect(worker.id, STORES);
      (deed as DeedOf<'claim a suspect'>).rows = row === undefined ? [] : [row];
    },
  );
}

export async function settle(
  stage: Stage,
  worker: Worker,
  step: Extract<Step, { do: 'settle' }>,
): Promise<void> {
  const pool = step.late ? worker.ever : worker.hand;
  const rows = step.rows.map(n => pool.at(n % pool.length)).filter(row => row !== undefined);
  if (rows.length === 0) return;
  const settlements = rows.map(row => settlementOf(row, step));
  await stage.start(
    worker.lanes.settle,
    { kind: 'settle', settlements, settled: [], names: rows.map(row => row.id) },
    async (lane, deed) => {
      (deed as DeedOf<'settle'>).settled = await settled(lane.outbox, worker.name, settlements);
    },
    step.pause === 'no' ? undefined : step.pause,
  );
}

function settlementOf(row: ClaimedRow, step: Extract<Step, { do: 'settle' }>): Settlement {
  const common = { row, objects: (row.objects ?? 0) + step.objects, bytes: null };
  if (step.as === 'done') return { ...common, kind: 'done', outcome: 'deleted', note: null };
  if (step.as === 'dead') return { ...common, kind: 'dead', error: 'broken' };
  return {
    ...common,
    kind: 'back',
    reason: step.as,
    delay: step.delay,
    error: step.as === 'handed_back' ? null : 'not now',
  };
}

/** Sends them; returns the ids that were held, which is all but those that it is told of. */
async function settled(
  outbox: Outbox,
  worker: string,
  settlements: readonly Settlement[],
): Promise<string[]> {
  const of = <K extends Settlement['kind']>(kind: K) =>
    settlements.filter((s): s is Extract<Settlement, { kind: K }> => s.kind === kind);
  const fenced = new Set([
    ...(of('done').length > 0 ? await outbox.settleDone(worker, true, of('done')) : []),
    ...(of('back').length > 0 ? await outbox.settleBack(of('back')) : []),
    ...(of('dead').length > 0 ? await outbox.settleDead(worker, of('dead')) : []),
  ]);
  return [...new Set(settlements.map(s => s.row.id))].filter(id => !fenced.has(id));
}

/** What a step says, done: by writers, the reaper and the operator here, by daemons in `daemon.ts`. */
import { work } from './daemon.ts';
import type { DeedOf } from './deeds.ts';
import type { Lane } from './lane.ts';
import type { Point } from './observer.ts';
import type { Stage } from './stage.ts';
import { STORES, type Step } from './steps.ts';
import type { Worker } from './worker.ts';

export async function act(stage: Stage, step: Step): Promise<void> {
  switch (step.do) {
    case 'begin':
    case 'write':
      return await write(stage, step);
    case 'end': {
      const active = stage.lanes.filter(lane => lane.active);
      const lane = active.at(step.lane % active.length);
      if (lane !== undefined) await stage.goOn(lane, step.how);
      return;
    }
    case 'reap':
      if (step.expired !== undefined) await stage.expire(stage.workers[step.expired] as Worker);
      await reap(stage, step.pause === 'no' ? undefined : step.pause);
      return await stage.unlessHeld(stage.reaper, step);
    case 'operate':
      await operate(stage, step);
      return await stage.unlessHeld(stage.operator, step);
    case 'tick':
      stage.clock += stage.broken === 'never falls back' ? Math.min(step.ms, 250) : step.ms;
      return;
    case 'wait':
      return await new Promise(resolve => setTimeout(resolve, step.ms));
    case 'pause a store':
    case 'resume a store':
      // What a claim is told of pauses while it waits is nobody's to say.
      if (stage.lanes.some(lane => lane.busy && lane.deed?.kind === 'claim')) return;
      stage.stale = true;
      return await stage.observer.pause(step.store, step.do === 'pause a store');
    default: {
      const worker = stage.workers[step.worker] as Worker;
      await work(stage, worker, step);
      if (step.do === 'settle' || step.do === 'hand back strays')
        await stage.unlessHeld(worker.lanes.settle, step);
      else if ('hold' in step && step.do !== 'go on') await stage.unlessHeld(worker.lanes.beat, step);
    }
  }
}

async function write(stage: Stage, step: Extract<Step, { do: 'begin' | 'write' }>): Promise<void> {
  const lane = stage.writers[step.writer] as Lane;
  if (lane.busy) return;
  if (lane.error !== undefined) return;
  if (!lane.active) {
    const deed = stage.deed({ kind: 'write', written: [], names: [] });
    await lane.begin(deed, step.isolation);
    await lane.send(undefined, async () => void (await lane.sql('SELECT now()')));
    lane.reported = true;
  }
  if (step.do === 'begin') return;
  const deed = lane.deed as DeedOf<'write'>;
  const store = STORES[step.store] as string;
  stage.saw(step.undone ? 'rollback to a savepoint' : `written: ${step.how}`);
  await lane.send(step.pause ? 'before a row of pending' : undefined, async () => {
    if (step.undone) await lane.sql('SAVEPOINT s');
    const target = `${store}/${++stage.named}`;
    const interval = `${step.delay} milliseconds`;
    const rows =
      step.how === 'enqueue'
        ? await lane.sql<{ id: string }>('SELECT afterdelete.enqueue($1, $2::interval)::text AS id', [
            target,
            interval,
          ])
        : await lane.sql<{ id: string }>(
            step.how === 'past'
              ? `INSERT INTO afterdelete.pending_file_cleanup (target, run_at) VALUES ($1, now() - interval '1 hour' + $2::interval / 1000) RETURNING id::text`
              : step.how === 'insert'
                ? `INSERT INTO afterdelete.pending_file_cleanup (target, run_at) VALUES ($1, now() + $2::interval) RETURNING id::text`
                : `INSERT INTO afterdelete.pending_file_cleanup (target, run_at) SELECT $1 || '/' || i, now() + $2::interval FROM generate_series(1, 3) i RETURNING id::text`,
            [target, interval],
          );
    if (step.undone) await lane.sql('ROLLBACK TO SAVEPOINT s');
    else deed.written.push(...rows.map(row => row.id));
  });
  if (lane.busy) stage.saw('paused: write');
  else stage.ended(lane);
  await stage.unlessHeld(lane, step);
}

export async function reap(stage: Stage, pause: Point | undefined): Promise<void> {
  await stage.start(
    stage.reaper,
    { kind: 'reap', workers: 0, moved: 0, died: 0, names: stage.ownerless() },
    async (lane, deed) => void Object.assign(deed, await lane.outbox.reap()),
    pause,
  );
}

async function operate(stage: Stage, step: Extract<Step, { do: 'operate' }>): Promise<void> {
  const state = step.how === 'retry' || step.how === 'discard' ? 'dead' : 'pending';
  const rows = [...stage.now.rows.values()];
  const fitting = rows.filter(row => row.state === state);
  const ids = (fitting.length > 0 ? fitting : rows).map(row => row.id);
  const id = ids.at(step.row % ids.length);
  if (id === undefined) return;
  await stage.start(
    stage.operator,
    { kind: step.how, id, ended: false, names: [id] },
    async (lane, deed) => {
      const [row] = await lane.sql<{ ended: boolean | '' }>(`SELECT afterdelete.${step.how}($1) AS ended`, [
        id,
      ]);
      (deed as DeedOf<'cancel'>).ended = row?.ended !== false;
    },
    step.pause ? 'before claiming' : undefined,
  );
}

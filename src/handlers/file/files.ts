/** Has single files deleted: many of a batch in one order, those of one directory together. */
import type { Context, Result } from '../contract.ts';
import type { Folder, Name } from './folders.ts';
import { failed, type Job, textOf } from './job.ts';
import { SinglesMemory } from './memory.ts';
import type { Group, Place } from './orders.ts';
import type { Threads } from './threads.ts';

/** Files in one order: enough to make the way there and back of no account, few enough to keep several threads busy. */
const FILES_AN_ORDER = 256;

export async function deleteFiles(
  jobs: readonly Job[],
  place: Place,
  threads: Threads,
  context: Context,
): Promise<void> {
  await Promise.all(ordersOf(jobs).map(order => deleteOrder(order, place, threads, context)));
}

/** Parts a batch into orders; files of one directory stay beside each other. */
function ordersOf(jobs: readonly Job[]): Job[][] {
  const sorted = [...Map.groupBy(jobs, job => job.parent).values()].flat();
  const orders: Job[][] = [];
  for (let n = 0; n < sorted.length; n += FILES_AN_ORDER) orders.push(sorted.slice(n, n + FILES_AN_ORDER));
  return orders;
}

async function deleteOrder(
  jobs: readonly Job[],
  place: Place,
  threads: Threads,
  context: Context,
): Promise<void> {
  for (let waiting = jobs; waiting.length > 0; ) {
    const memory = SinglesMemory.for(waiting.length);
    const order = { place, groups: groupsOf(waiting), memory: memory.buffer };
    try {
      const others = await context.call(signal =>
        threads.run('quick', 'singles', order, { signal, stop: () => memory.stop() }),
      );
      for (const [n, job] of waiting.entries()) {
        // The memory first: what one thread had deleted, before it was ended, is absent to the next.
        job.result = deletedBy(memory, n) ?? others.get(n);
      }
    } catch (error) {
      for (const [n, job] of waiting.entries()) {
        // A thread that hangs never answers, but it has written down what it had deleted before.
        job.result =
          deletedBy(memory, n) ??
          failed(textOf(place.root, job.parent, job.name, false), job.parent, job.name, error);
      }
    }
    for (const { cleanup, result } of waiting) {
      if (result && result.objects > 0)
        context.progress(cleanup.id, { objects: result.objects, bytes: result.bytes });
    }
    waiting = waiting.filter(job => !job.result);
  }
}

/** The result of the nth file, if a thread has written down that it deleted it. */
function deletedBy(memory: SinglesMemory, n: number): Result | undefined {
  const bytes = memory.bytesOf(n);
  return bytes === undefined ? undefined : { outcome: 'deleted', objects: 1, bytes };
}

function groupsOf(jobs: readonly Job[]): Group[] {
  const groups: { parent: Folder; names: Name[] }[] = [];
  for (const { parent, name } of jobs) {
    const last = groups.at(-1);
    if (last?.parent === parent) last.names.push(name);
    else groups.push({ parent, names: [name] });
  }
  return groups.map(({ parent, names }) => ({ address: parent.address(), names: names.join('/') }));
}

/** Reconcilers for tests: quick settings, stopped when the test ends, and waits on signals instead of sleeps. */
import { onTestFinished } from 'vitest';
import type { ReconcilerEvents } from '../../src/reconciler/events.ts';
import type { ReconcilerOptions } from '../../src/reconciler/options.ts';
import { createReconciler, type Reconciler } from '../../src/reconciler/reconciler.ts';

type Options = Partial<ReconcilerOptions> & Pick<ReconcilerOptions, 'databaseUrl' | 'handlers'>;

/** A reconciler that is stopped when the test has finished; not started yet. */
export function testReconciler(options: Options): Reconciler {
  const reconciler = createReconciler({
    roots: ['fake://store/'],
    retryBase: 1,
    retryCap: 10,
    shutdownGrace: 5_000,
    ...options,
  });
  onTestFinished(() => reconciler.stop());
  return reconciler;
}

type Name = keyof ReconcilerEvents;

/** Resolves with the first event of that name for which the condition holds. */
export function nextEvent<N extends Name>(
  reconciler: Reconciler,
  name: N,
  condition: (event: ReconcilerEvents[N][0]) => boolean = () => true,
): Promise<ReconcilerEvents[N][0]> {
  return new Promise(resolve => {
    const listener = (...args: unknown[]) => {
      const event = args[0] as ReconcilerEvents[N][0];
      if (!condition(event)) return;
      reconciler.events.off(name, listener as never);
      resolve(event);
    };
    reconciler.events.on(name, listener as never);
  });
}

/** Resolves when so many events of that name have come. */
export async function countEvents(reconciler: Reconciler, name: Name, count: number): Promise<void> {
  let seen = 0;
  await nextEvent(reconciler, name, () => ++seen >= count);
}

/** Resolves when the condition holds; asks again every 20 ms, because the database rings no bell. */
export async function until(
  condition: () => boolean | Promise<boolean>,
  what: string | (() => Promise<string>) = 'the condition',
  limit = 100_000,
): Promise<void> {
  const end = performance.now() + limit;
  while (!(await condition())) {
    if (performance.now() > end) {
      throw new Error(`waited ${limit / 1000} s for ${typeof what === 'string' ? what : await what()}`);
    }
    await new Promise(resolve => setTimeout(resolve, 20));
  }
}

/** Resolves when the daemon says that it is ready; tells what it says else when it never is. */
export async function untilReady(reconciler: Reconciler): Promise<void> {
  const readiness = () => reconciler.ready();
  await until(
    async () => (await readiness()).ok,
    async () => `the daemon to be ready: ${JSON.stringify(await readiness())}`,
  );
}

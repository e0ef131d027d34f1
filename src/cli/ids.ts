/** Commands that are given numbers of cleanups: what they accept, and what they say of one they could not change. */
import { InvalidArgumentError } from 'commander';
import type { Found, Operators } from '../outbox/operators.ts';
import { print } from './command.ts';
import type { ExitCode } from './failure.ts';
import { duration, plain, shown } from './words.ts';

const MAX_ID = 2n ** 63n - 1n;

/** Collects the ids of a command line, each once. @throws InvalidArgumentError */
export function collectId(text: string, earlier: readonly string[] | undefined): string[] {
  if (!/^\d{1,19}$/.test(text) || BigInt(text) < 1n || BigInt(text) > MAX_ID) {
    throw new InvalidArgumentError('An id is a whole number from 1, as `afterdelete status` shows it.');
  }
  return [...new Set([...(earlier ?? []), String(BigInt(text))])];
}

/** A store as people write it. @throws InvalidArgumentError */
export function parseStore(text: string): string {
  if (/^[a-z][a-z0-9+.-]*:\/\/[^/\p{Cc}]*$/u.test(text)) return text;
  throw new InvalidArgumentError(
    'A store is a scheme and an authority without a slash at the end, e.g. file:// or s3://my-bucket.',
  );
}

/** What changes a cleanup; false: it could not. */
export interface Change {
  readonly apply: (id: string) => Promise<boolean>;
  /** What happened, e.g. `retried: due now`. */
  readonly done: string;
  /** Why it cannot be done in the state that it is in. */
  readonly refused: (found: Found) => string;
}

/** Changes each of them, and says of each what happened. 1 when one could not be changed. */
export async function changeEach(
  operators: Operators,
  ids: readonly string[],
  { apply, done, refused }: Change,
): Promise<ExitCode> {
  const before = await operators.find(ids);
  let code: ExitCode = 0;
  for (const id of ids) {
    if (await apply(id)) {
      const found = before.get(id);
      print(`${id}  ${done}${found === undefined ? '' : `  ${shown(found.target)}`}`);
      continue;
    }
    code = 1;
    const found = (await operators.find([id])).get(id);
    const why = found === undefined ? nowhere(id) : `${refused(found)}  ${shown(found.target)}`;
    process.stderr.write(`${id}  not changed: ${why}\n`);
  }
  return code;
}

/** Of an id that no table has. */
export function nowhere(id: string): string {
  return `there is no cleanup ${id}: it was never committed, or it is done and its record is gone`;
}

/** The state of a cleanup in a few words. */
export function stateOf(found: Found): string {
  switch (found.state) {
    case 'pending': {
      const { dueIn, putBack } = found;
      if (dueIn === null) return 'it is pending and never due (run_at is infinity)';
      if (dueIn <= 0) return 'it is pending and due';
      const why = putBack === null ? 'delayed' : putBack === 'blocked' ? 'blocked' : `waiting (${putBack})`;
      return `it is pending, ${why}, and due in ${duration(dueIn)}`;
    }
    case 'running':
      return `it is running: ${plain(found.worker ?? 'a worker that has vanished')} has it in hand`;
    case 'dead':
      // What follows is a sentence of its own, or the target.
      return `it is dead: ${plain(found.message).replace(/\.$/, '')}`;
    case 'done':
      return `it is done: ${found.outcome}${found.message === null ? '' : ` (${plain(found.message)})`}`;
  }
}

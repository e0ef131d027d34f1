/** The last question before anything is deleted: does a live row still hold it? */
import { messageOf } from '../handlers/contract.ts';
import { isClaimOfAnotherServer } from '../outbox/errors.ts';
import type { Holders } from '../outbox/holders.ts';
import { isAway } from '../outbox/reachability.ts';

/** `go`: nobody holds it. `kept`: a live row holds exactly this. `blocked`: one holds something below it. */
export type Verdict =
  | { readonly verdict: 'go' }
  | { readonly verdict: 'kept' | 'blocked'; readonly reason: string };

/**
 * Asked once a batch; one verdict for each target, in order. What it throws blocks the batch, unless it is `NotNow`.
 * `claim`: the number under which the database gave the batch out.
 */
export type Guard = (targets: readonly string[], claim: string) => Promise<readonly Verdict[]>;

/** The database cannot say now, for no fault of what is asked about, which is handed back. */
export class NotNow extends Error {
  override readonly name = 'NotNow';
  /** Another server answers than the one that gave the claim, or it was restarted. */
  readonly otherServer: boolean;

  constructor(cause: unknown, otherServer: boolean) {
    super(messageOf(cause), { cause });
    this.otherServer = otherServer;
  }
}

const GO: Verdict = { verdict: 'go' };

/**
 * How long a database that is away costs nothing but time, in ms: while it is, nothing more is claimed. One that goes on giving out rows, and
 * cannot be asked about them, has another trouble (its question makes it crash, a pooler or a person ends it): a person is to see that.
 */
const AWAY = 10_000;

/** Asks the watched tables, and the guards that are declared in the database. */
export function askHolders(holders: Pick<Holders, 'ask'>, now = () => performance.now()): Guard {
  let since = Number.NEGATIVE_INFINITY;
  let last = Number.NEGATIVE_INFINITY;
  return async (targets, claim) => {
    try {
      const objections = await holders.ask(targets, claim);
      last = Number.NEGATIVE_INFINITY;
      return objections.map(objection => objection ?? GO);
    } catch (error) {
      if (isClaimOfAnotherServer(error)) throw new NotNow(error, true);
      if (!isAway(error)) throw error;
      if (now() - last > AWAY) since = now();
      last = now();
      throw last - since < AWAY ? new NotNow(error, false) : error;
    }
  };
}

/** Asks one guard after the other; each only about what those before it let go. */
export function both(first: Guard, second: Guard): Guard {
  return async (targets, claim) => {
    const verdicts = [...(await first(targets, claim))];
    const free = [...targets.keys()].filter(n => verdicts[n]?.verdict === 'go');
    if (free.length === 0) return verdicts;
    const answers = await second(
      free.map(n => targets[n] as string),
      claim,
    );
    if (answers.length !== free.length)
      throw new Error(`it gave ${answers.length} verdicts for ${free.length} targets`);
    for (const [k, n] of free.entries()) verdicts[n] = answers[k] as Verdict;
    return verdicts;
  };
}

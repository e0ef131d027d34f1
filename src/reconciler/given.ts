/** What handlers and guards give may be a user's own, in JavaScript: it is looked at before it is relied on. */
import type { Receipt, Result } from '../handlers/contract.ts';
import type { Verdict } from './guard.ts';

/** The outcomes, and whether an error comes with them. */
const HAS_ERROR: Readonly<Record<Result['outcome'], boolean>> = {
  deleted: false,
  absent: false,
  yielded: false,
  retry: true,
  blocked: true,
  dead: true,
  unavailable: true,
  wrong_root: true,
};

type Fields<T> = { readonly [Name in T extends T ? keyof T : never]?: unknown };

/** The result that was given, and no more of it; undefined when it is none. Each field is read once. */
export function resultFrom(given: Fields<Result> | undefined): Result | undefined {
  const { outcome, objects, bytes, error, note, progressed } = given ?? {};
  const result = { outcome, objects, bytes, error, note: note ?? undefined, progressed };
  return isResult(result) ? (result as Result) : undefined;
}

function isResult(given: Fields<Result>): boolean {
  const { outcome, error, note } = given;
  if (typeof outcome !== 'string' || !Object.hasOwn(HAS_ERROR, outcome)) return false;
  if (HAS_ERROR[outcome as Result['outcome']] && typeof error !== 'string') return false;
  return (note === undefined || typeof note === 'string') && isReceipt(given);
}

export function isReceipt(given: Fields<Receipt> | undefined): given is Receipt {
  const { objects, bytes } = given ?? {};
  return isCount(objects) && (bytes === null || isCount(bytes));
}

function isCount(given: unknown): boolean {
  return Number.isSafeInteger(given) && (given as number) >= 0;
}

export function isVerdict(given: Fields<Verdict> | undefined): given is Verdict {
  const { verdict, reason } = given ?? {};
  return verdict === 'go' || ((verdict === 'kept' || verdict === 'blocked') && typeof reason === 'string');
}

/**
 * What a target is: the literal address of what to delete.
 *
 * A target looks like a URI and is not one: it is compared byte by byte, and nothing here decodes, trims or
 * normalises. In particular it never passes through `new URL()`, which would resolve `..` and decode `%2F`.
 * The same rules stand as named CHECKs in `sql/`; `tests/target.test.ts` holds the two against each other.
 */

/** A target that keeps every rule, taken apart. The parts put together again are the target. */
export interface Target {
  /** The target as written. */
  readonly text: string;
  /** What stands before `://`, e.g. `file`. */
  readonly scheme: string;
  /** The host of a `file:` target (often empty), the bucket of an `s3:` one. */
  readonly authority: string;
  /** Scheme and authority, e.g. `file://` or `s3://bucket`: what a daemon serves, pauses and counts by. */
  readonly store: string;
  /** What stands after the authority: with its leading slash for `file:`, the bare key otherwise. */
  readonly path: string;
  /** True when the target ends with a slash: "everything below, and it". */
  readonly tree: boolean;
}

/** Most bytes of a target, counted in UTF-8. */
export const MAX_TARGET_BYTES = 4096;

/** Most levels of empty parent directories that a cleanup may remove. */
export const MAX_PRUNE_PARENTS = 32;

/** Name of the file that marks a `file:` root. It is never a target. */
export const ROOT_SENTINEL = '.afterdelete-root';

/** A target that breaks a rule. The message names the target, the rule and what would be right. */
export class InvalidTargetError extends Error {
  override readonly name = 'InvalidTargetError';
  readonly target: string;
  /** The name of the rule: that of the CHECK in the database. */
  readonly rule: string;

  constructor(target: string, rule: string, expected: string) {
    super(`invalid target ${quoteTarget(target)}: ${expected}`);
    this.target = target;
    this.rule = rule;
  }
}

interface Rule {
  readonly name: string;
  readonly expected: string;
  readonly holds: (target: string) => boolean;
}

const SCHEME = /^[a-z][a-z0-9+.-]*:\/\//;
// biome-ignore lint/suspicious/noControlCharactersInRegex: finding control characters is what it is for
const CONTROL = /[\u0000-\u001f\u007f-\u009f]/;

const isFile = (target: string) => target.startsWith('file://');
/** A segment that is '.' or '..'; what stands before the first slash is a scheme. */
const DOTS = /\/\.\.?(?:\/|$)/;
/** Where what stands after the authority begins; -1: there is no slash behind it. */
const afterAuthority = (target: string) => target.indexOf('/', target.indexOf('://') + 3) + 1 || -1;
/** Short ones need not be counted: a character has 3 bytes at most (and half of a pair has 2). */
const hasAtMost = (bytes: number, text: string) =>
  3 * text.length <= bytes || Buffer.byteLength(text) <= bytes;

/** In the order in which the database tests them: CHECKs of a domain run by name. */
const RULES: readonly Rule[] = [
  {
    name: 'target_at_most_4096_bytes',
    expected: `a target has at most ${MAX_TARGET_BYTES} bytes`,
    holds: target => hasAtMost(MAX_TARGET_BYTES, target),
  },
  {
    name: 'target_has_a_scheme',
    expected:
      "a target starts with a scheme in lower case and '://', as in file:///data/a.bin or s3://bucket/key",
    holds: target => SCHEME.test(target),
  },
  {
    name: 'target_has_a_store_of_at_most_512_bytes',
    expected: 'scheme and authority of a target have at most 512 bytes',
    holds: target => hasAtMost(512, storeOf(target)),
  },
  {
    name: 'target_has_no_control_characters',
    expected: 'a target has no control characters (U+0000 to U+001F, U+007F to U+009F)',
    holds: target => !CONTROL.test(target),
  },
  {
    name: 'target_is_well_formed',
    expected:
      'a target is well-formed Unicode: half a surrogate pair would reach the database as another character',
    holds: target => target.isWellFormed(),
  },
  {
    name: 'target_has_no_dot_segments',
    expected: "no segment of a target is '.' or '..'",
    holds: target => !DOTS.test(target),
  },
  {
    name: 'target_of_a_file_has_a_path',
    expected: "a 'file:' target names something below '/', as in file:///data/a.bin",
    holds: target => {
      if (!isFile(target)) return true;
      const path = afterAuthority(target);
      return path >= 0 && path < target.length && target[path] !== '/';
    },
  },
  {
    name: 'target_of_a_file_has_no_empty_segments',
    expected: "a 'file:' target has no empty segment ('//')",
    holds: target => !isFile(target) || !target.slice('file://'.length).includes('//'),
  },
  {
    name: 'target_of_an_object_has_bucket_and_key',
    expected:
      'a bucket and a key or prefix, neither of them empty, as in s3://bucket/key or s3://bucket/prefix/',
    holds: target => {
      const key = afterAuthority(target);
      return isFile(target) || (key > target.indexOf('://') + 4 && key < target.length);
    },
  },
];

/** The names of the rules that are CHECKs in the database too; half a surrogate pair is JavaScript's alone. */
export const TARGET_RULES: readonly string[] = RULES.map(rule => rule.name).filter(
  name => name !== 'target_is_well_formed',
);

/**
 * Takes a target apart.
 * @throws InvalidTargetError for the first rule that the target breaks.
 */
export function parseTarget(target: string): Target {
  for (const rule of RULES) {
    if (!rule.holds(target)) throw new InvalidTargetError(target, rule.name, rule.expected);
  }
  return splitTarget(target);
}

/** The store of a target: its scheme and authority, e.g. `file://gpu-01` or `s3://bucket`. */
export function storeOf(target: string): string {
  const path = afterAuthority(target);
  return path < 0 ? target : target.slice(0, path - 1);
}

function splitTarget(target: string): Target {
  const scheme = target.slice(0, target.indexOf('://'));
  const store = storeOf(target);
  const authority = store.slice(scheme.length + '://'.length);
  const path = target.slice(store.length + (scheme === 'file' ? 0 : 1));
  return { text: target, scheme, authority, store, path, tree: target.endsWith('/') };
}

/** A target as it may stand in a message: in quotes, control characters escaped, cut at 300 characters. */
export function quoteTarget(target: string): string {
  const text = JSON.stringify(target.length > 300 ? `${target.slice(0, 300)}…` : target);
  // JSON leaves DEL, the C1 controls and what turns the direction of writing as they are; a terminal would obey them.
  return text.replace(
    /[\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g,
    c => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

/** What is wrong with a root, or undefined: it must be a valid target or a whole store, and end with a slash. */
export function rootProblem(root: string): string | undefined {
  if (!root.endsWith('/')) return 'a root ends with a slash';
  if (root.split('/').length === 4 && !isFile(root)) {
    // A whole bucket: what follows the authority is empty, which only a root may be.
    return ruleProblem(`${root}x`);
  }
  return ruleProblem(root);
}

function ruleProblem(target: string): string | undefined {
  return RULES.find(rule => !rule.holds(target))?.expected;
}

/**
 * Whether a target lies strictly inside a root: below it, and neither the root itself nor its sentinel.
 * Both are compared byte by byte.
 */
export function isInside(target: string, root: string): boolean {
  if (!target.startsWith(root) || target.length === root.length) return false;
  const rest = target.slice(root.length);
  return !(isFile(root) && (rest === ROOT_SENTINEL || rest.startsWith(`${ROOT_SENTINEL}/`)));
}

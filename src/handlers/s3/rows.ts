/** Deletes single objects, many rows at once: each row ends by what became of its own key. */
import pLimit from 'p-limit';
import { type Cleanup, type Context, NOTHING, type Result, resultOf, StorageError } from '../contract.ts';
import { type Item, MAX_KEYS, type S3Bucket } from './bucket.ts';
import { deleteKeys, type KeyOutcome } from './delete-keys.ts';
import { keyOfMarker, type ListedObject, listObjects, listVersions } from './listings.ts';
import { deletePrefix } from './prefix.ts';
import { dueOnServer, type Uploads } from './uploads.ts';

const LISTINGS_IN_FLIGHT = 16;

/** A key with more versions than these is deleted by itself, page by page. */
const MANY_VERSIONS = 100;
const LONG_IN_FLIGHT = 4;

const IS_NEWER = 'what is there was written after the cleanup fell due, and stays';

/** Deletes the keys of cleanups of one bucket, in order; of two that name the same key, the second finds it gone. */
export async function deleteRows(
  bucket: S3Bucket,
  uploads: Uploads | undefined,
  cleanups: readonly Cleanup[],
  context: Context,
): Promise<Result[]> {
  // Of several cleanups of one key, the latest decides what is younger than its cleanup.
  const rows = new Map<string, Cleanup>();
  for (const cleanup of cleanups) {
    const { path } = cleanup.target;
    const other = rows.get(path);
    if (!other || (other.dueSince ?? 0) < (cleanup.dueSince ?? 0)) rows.set(path, cleanup);
  }
  const { versions, newer } = bucket.settings;
  const deleteAll =
    versions === 'purge' ? purgeVersions : newer === 'keep' ? deleteUnlessNewer : deleteOutright;
  const [results, aborted] = await Promise.all([
    deleteAll(bucket, [...rows.values()], context),
    uploads === undefined ? undefined : abortUploads(uploads, [...rows.values()], context),
  ]);
  const seen = new Set<string>();
  return cleanups.map(({ target: { path } }) => {
    const result = withUploads(results.get(path) ?? resultOf(undefined), aborted?.get(path));
    const isFirst = !seen.has(path);
    seen.add(path);
    // One object, deleted once: of two cleanups that name it, the second found it gone.
    return isFirst || result.outcome !== 'deleted' ? result : { ...NOTHING, outcome: 'absent' };
  });
}

async function abortUploads(uploads: Uploads, rows: readonly Cleanup[], context: Context) {
  const dues = rows.flatMap(({ target, dueSince }) =>
    dueSince === undefined || target.path === '' ? [] : [{ key: target.path, since: dueSince }],
  );
  const [first] = rows;
  const root = first === undefined ? '' : first.root.slice(first.target.store.length + 1);
  return await uploads.abortOf(dues, root, context);
}

function withUploads(result: Result, aborted: number | Error | undefined): Result {
  if (aborted === undefined || (result.outcome !== 'deleted' && result.outcome !== 'absent')) return result;
  // Its object is gone and will be found gone; only then is it counted.
  if (typeof aborted !== 'number') return resultOf(aborted);
  const note = `${aborted} incomplete ${aborted === 1 ? 'upload was' : 'uploads were'} aborted`;
  return {
    ...result,
    outcome: 'deleted',
    note: result.note === undefined ? note : `${result.note}; ${note}`,
  };
}

type Results = ReadonlyMap<string, Result>;

/** One request for a thousand keys: nothing is asked first. */
async function deleteOutright(
  bucket: S3Bucket,
  rows: readonly Cleanup[],
  context: Context,
): Promise<Results> {
  const items = rows.map(({ target }): Item => ({ key: target.path }));
  const outcomes = await deleteKeys(bucket, items, context);
  return new Map(items.map(item => [item.key, resultOfKey(outcomes.get(item), 1, null)]));
}

/** Looks at each key first. What is replaced between the look and the delete stays where the server knows conditions. */
async function deleteUnlessNewer(
  bucket: S3Bucket,
  rows: readonly Cleanup[],
  context: Context,
): Promise<Results> {
  const results = new Map<string, Result>();
  const found = new Map<Item, ListedObject>();
  await pLimit(LISTINGS_IN_FLIGHT).map(rows, async ({ target: { path }, dueSince }) => {
    try {
      const { entries, date } = await listObjects(bucket, path, { limit: 1 }, context);
      const entry = entries.find(({ key }) => key === path);
      if (entry === undefined) results.set(path, { ...NOTHING, outcome: 'absent' });
      else if (isNewer(entry, dueSince, date))
        results.set(path, { ...NOTHING, outcome: 'absent', note: IS_NEWER });
      else found.set({ key: path, etag: entry.etag }, entry);
    } catch (error) {
      results.set(path, resultOf(error));
    }
  });
  const outcomes = await deleteKeys(bucket, found.keys(), context);
  for (const [item, { size }] of found) results.set(item.key, resultOfKey(outcomes.get(item), 1, size));
  return results;
}

function isNewer(entry: ListedObject, dueSince: number | undefined, date: Date | undefined): boolean {
  if (dueSince === undefined || entry.modified === undefined) return true;
  return entry.modified.getTime() > dueOnServer(dueSince, date);
}

/** All versions of each key; of many keys together, the older ones first. */
async function purgeVersions(bucket: S3Bucket, rows: readonly Cleanup[], context: Context): Promise<Results> {
  const results = new Map<string, Result>();
  const found = new Map<string, ListedObject[]>();
  const long: Cleanup[] = [];
  await pLimit(LISTINGS_IN_FLIGHT).map(rows, async row => {
    const { path } = row.target;
    try {
      const { entries, next, date } = await listVersions(bucket, path, { limit: MAX_KEYS }, context);
      const own = entries.filter(({ key }) => key === path);
      const goesOn = next !== undefined && keyOfMarker(next) === path;
      // A thousand rows with a thousand versions each would be a million entries in memory.
      if (goesOn || own.length > MANY_VERSIONS) return void long.push(row);
      const keep = bucket.settings.newer === 'keep';
      const old = own.filter(entry => !keep || !isNewer(entry, row.dueSince, date));
      if (old.length > 0) found.set(path, old);
      else if (own.length > 0) results.set(path, { ...NOTHING, outcome: 'absent', note: IS_NEWER });
      else results.set(path, { objects: 0, bytes: 0, outcome: 'absent' });
    } catch (error) {
      results.set(path, resultOf(error));
    }
  });
  const outcomes = new Map<ListedObject, KeyOutcome | undefined>();
  const remove = async (entries: readonly ListedObject[]) => {
    const items = new Map(
      entries.map((entry): [Item, ListedObject] => [
        { key: entry.key ?? '', versionId: entry.versionId },
        entry,
      ]),
    );
    const became = await deleteKeys(bucket, items.keys(), context);
    for (const [item, entry] of items) outcomes.set(entry, became.get(item));
  };
  await remove([...found.values()].flat().filter(({ isLatest }) => !isLatest));
  // The newest goes last, and only when nothing older is left that would come back to life.
  const clear = [...found.values()].filter(all =>
    all.every(entry => entry.isLatest || isGone(outcomes.get(entry))),
  );
  await remove(clear.flat().filter(({ isLatest }) => isLatest));
  for (const [path, entries] of found) results.set(path, resultOfVersions(entries, outcomes));
  await pLimit(LONG_IN_FLIGHT).map(long, async row => {
    results.set(row.target.path, await deletePrefix(bucket, undefined, row, context));
  });
  return results;
}

const isGone = (outcome: KeyOutcome | undefined) => outcome === 'deleted' || outcome === 'absent';

function resultOfVersions(
  entries: readonly ListedObject[],
  outcomes: ReadonlyMap<ListedObject, KeyOutcome | undefined>,
): Result {
  const gone = entries.filter(entry => outcomes.get(entry) === 'deleted');
  const receipt = {
    objects: gone.filter(({ isMarker }) => !isMarker).length,
    bytes: gone.reduce((sum, { size }) => sum + size, 0),
  };
  const wrong = entries.map(entry => outcomes.get(entry)).find(outcome => typeof outcome === 'object');
  if (wrong !== undefined) return resultOf(wrong, receipt);
  return { ...receipt, outcome: gone.length > 0 ? 'deleted' : 'absent' };
}

function resultOfKey(outcome: KeyOutcome | undefined, objects: number, bytes: number | null): Result {
  if (outcome === 'deleted') return { objects, bytes, outcome };
  if (outcome === 'absent') return { ...NOTHING, outcome };
  if (outcome === 'replaced') return { ...NOTHING, outcome: 'absent', note: IS_NEWER };
  return resultOf(outcome ?? new StorageError('transient', 'nothing is known of this key'));
}

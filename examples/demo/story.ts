/** What a story is, and what most of them do. */
import type { Narrator } from './narrate.ts';
import type { Stage } from './stage.ts';

export interface Story {
  readonly title: string;
  readonly tell: (stage: Stage, narrator: Narrator) => Promise<void>;
}

/** Shows SQL, sends it to the letter, and returns the rows of its last answer. */
export async function perform(
  stage: Stage,
  narrator: Narrator,
  text: string,
): Promise<Record<string, unknown>[]> {
  narrator.sql(text);
  return await stage.run(text);
}

/** The same, for SQL that ends with the ids of the cleanups that it wrote. */
export async function enqueued(stage: Stage, narrator: Narrator, text: string): Promise<string[]> {
  const rows = await perform(stage, narrator, text);
  return rows.map(row => String(row.id));
}

/** The only one of several; throws when there are more, or none. */
export function only<T>(items: readonly T[]): T {
  const [first] = items;
  if (first === undefined || items.length > 1) throw new Error(`expected one, found ${items.length}`);
  return first;
}

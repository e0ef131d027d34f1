/**
 * The demo: what afterdelete is for, told in seven short stories, each of which really happens.
 *
 * Run it with `npm run demo` or `node examples/demo/main.ts`. It needs nothing but a checkout with its development
 * dependencies: it brings its own PostgreSQL and its own S3, and leaves nothing behind.
 */
import { realpathSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Interruption } from './interruption.ts';
import { FalseClaim, Narrator, tellAll } from './narrate.ts';
import { openStage, type Stage } from './stage.ts';
import { checkpoint } from './stories/checkpoint.ts';
import { closing } from './stories/closing.ts';
import { dataset } from './stories/dataset.ts';
import { outage } from './stories/outage.ts';
import { rollback } from './stories/rollback.ts';
import { stuck } from './stories/stuck.ts';
import { training } from './stories/training.ts';
import type { Story } from './story.ts';
import { Workshop } from './workshop.ts';

const STORIES: readonly Story[] = [training, rollback, checkpoint, dataset, outage, stuck, closing];

/** Runs the demo and returns the exit code: 0 if all that it says is so, 1 if not, 128 and more after a signal. */
export async function runDemo(): Promise<number> {
  const started = performance.now();
  const interruption = new Interruption();
  const narrator = new Narrator(process.stdout, interruption.signal);
  const workshop = new Workshop();
  let code = 1;
  try {
    narrator.say('Starting a PostgreSQL, an S3 server and a daemon, all for this demo alone …');
    const stage = await openStage(workshop, interruption.signal);
    code = await tellAll(narrator, chaptersOn(stage, narrator));
  } catch (error) {
    // Ctrl-C also reaches PostgreSQL: what fails after it fails for that reason.
    if (interruption.code === undefined) narrator.failure(error);
  }
  const left = await workshop.close();
  interruption.forget();
  if (interruption.code !== undefined) return interruption.code;
  if (code !== 0) return code;
  return finish(narrator, left, started);
}

function chaptersOn(stage: Stage, narrator: Narrator) {
  return STORIES.map(({ title, tell }) => ({ title, tell: () => tell(stage, narrator) }));
}

function finish(narrator: Narrator, left: readonly string[], started: number): number {
  narrator.say('');
  try {
    narrator.check('Nothing is left behind: no process, no directory, no open port.', left, []);
  } catch (error) {
    if (!(error instanceof FalseClaim)) throw error;
    narrator.failure(error);
    return 1;
  }
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  narrator.say(
    `It took ${seconds} s. Each of the ${narrator.checks} lines with a ✓ was looked up, not assumed.`,
  );
  return 0;
}

const [, script] = process.argv;
if (script !== undefined && realpathSync(script) === fileURLToPath(import.meta.url)) {
  process.exitCode = await runDemo();
}

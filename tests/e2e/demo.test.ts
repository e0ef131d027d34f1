/** The demo is what a newcomer runs first: it must work as it stands, say only what is so, and leave nothing behind. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it, onTestFinished } from 'vitest';
import { Narrator, tellAll } from '../../examples/demo/narrate.ts';

const DEMO = fileURLToPath(new URL('../../examples/demo/main.ts', import.meta.url));
/** It takes a few seconds alone, and longer beside other tests. */
const LIMIT = 120_000;

const TITLES = [
  '1. A training is deleted, and its files go with it',
  '2. A transaction rolls back, and nothing is deleted',
  '3. A checkpoint is deleted, and its empty directories go too',
  '4. A data set of 2,500 objects is deleted from S3',
  '5. S3 is down for a while, and comes back',
  '6. Cleanups that cannot be carried out, and what a person does about them',
  '7. What has happened, and what you can look at',
];

describe('the demo', { timeout: LIMIT }, () => {
  it('tells its stories, and all of them are so', async () => {
    const demo = startDemo();
    expect(await demo.end()).toEqual({ code: 0, broken: [] });
    const lines = demo.output().split('\n');
    expect(lines.filter(line => /^\d\. /.test(line))).toEqual(TITLES);
    expect(lines.filter(line => line.startsWith('   ✓ ')).length).toBeGreaterThan(30);
    // It writes to a pipe here: no colours, and nothing that it did not mean to say.
    expect(demo.output()).not.toContain('\u001b');
    expect(demo.errors()).toBe('');
    expect(demo.leftBehind()).toEqual([]);
  });

  it('can run twice at the same time', async () => {
    const demos = [startDemo(), startDemo()];
    for (const demo of demos) expect(await demo.end()).toEqual({ code: 0, broken: [] });
    for (const demo of demos) expect(demo.leftBehind()).toEqual([]);
  });

  it.each([
    ['SIGINT', 130, TITLES[0]],
    ['SIGTERM', 143, TITLES[4]],
  ] as const)('puts everything away on %s', async (signal, code, title) => {
    const demo = startDemo();
    await demo.says(title ?? '');
    demo.child.kill(signal);
    expect(await demo.end()).toEqual({ code: code, broken: [] });
    expect(demo.output()).toContain('Interrupted');
    expect(demo.leftBehind()).toEqual([]);
  });
});

describe("the demo's voice", () => {
  it('ends with exit code 0 when all that it says is so', async () => {
    const { output, narrator } = listenTo();
    const tell = async () => narrator.check('Two and two are four.', { sum: 2 + 2 }, { sum: 4 });
    expect(await tellAll(narrator, [{ title: 'Sums', tell }])).toBe(0);
    expect(output()).toContain('1. Sums');
    expect(output()).toContain('✓ Two and two are four.');
    expect(narrator.checks).toBe(1);
  });

  it('ends with exit code 1 at the first thing that is not so, and names what was expected and found', async () => {
    const { output, narrator } = listenTo();
    const first = async () => narrator.check('Two rows are left.', [{ id: 1 }], [{ id: 1 }, { id: 2 }]);
    const second = async () => narrator.say('never told');
    const chapters = [
      { title: 'First', tell: first },
      { title: 'Second', tell: second },
    ];
    expect(await tellAll(narrator, chapters)).toBe(1);
    expect(output()).toContain('✗ Two rows are left.');
    expect(output()).not.toContain('✓');
    expect(output()).toContain('expected: [ { id: 1 }, { id: 2 } ]');
    expect(output()).toContain('found:    [ { id: 1 } ]');
    expect(output()).not.toContain('Second');
    expect(narrator.checks).toBe(0);
  });

  it('ends with exit code 1 when a story cannot go on', async () => {
    const { output, narrator } = listenTo();
    const tell = async () => {
      throw new Error('the database is gone');
    };
    expect(await tellAll(narrator, [{ title: 'Broken', tell }])).toBe(1);
    expect(output()).toContain('the database is gone');
  });

  it('compares types too: a bigint as text is not a number', () => {
    const { narrator } = listenTo();
    expect(() => narrator.check('Four.', '4', 4)).toThrow('Four.');
  });

  it('says nothing more once it is interrupted', async () => {
    const interruption = new AbortController();
    const { output, narrator } = listenTo(interruption.signal);
    const tell = async () => {
      interruption.abort(new Error('enough'));
      narrator.say('never told');
    };
    await expect(tellAll(narrator, [{ title: 'Short', tell }])).rejects.toThrow('enough');
    expect(output()).not.toContain('never told');
  });
});

/** A narrator, and what it has said. */
function listenTo(signal?: AbortSignal): { narrator: Narrator; output: () => string } {
  let said = '';
  const narrator = new Narrator({ write: text => (said += text) }, signal);
  return { narrator, output: () => said };
}

interface Demo {
  end(): Promise<{ code: number | string; broken: string[] }>;
  readonly child: ChildProcess;
  /** The exit code, or the name of the signal that it died of. */
  readonly ended: Promise<unknown>;
  output(): string;
  errors(): string;
  /** Resolves when it has said so; rejects when it ends before. */
  says(text: string): Promise<void>;
  /** What lies in the directory for temporary files that it was given for itself. */
  leftBehind(): string[];
}

/** Runs the demo as a child process, with a temporary directory of its own to leave things behind in. */
function startDemo(): Demo {
  const temporary = mkdtempSync(join(tmpdir(), 'afterdelete-demo-test-'));
  // Run by root, PostgreSQL drops to another user, who must get to its data.
  chmodSync(temporary, 0o755);
  onTestFinished(() => rmSync(temporary, { recursive: true, force: true }));
  const child = spawn(process.execPath, [DEMO], {
    env: { ...process.env, TMPDIR: temporary, FORCE_COLOR: undefined },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  onTestFinished(() => void child.kill());
  let [output, errors] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', text => {
    output += text;
  });
  child.stderr.setEncoding('utf8').on('data', text => {
    errors += text;
  });
  const ended = once(child, 'close').then(([code, signal]) => code ?? signal);
  /** How it ended, and the claims that were not so, with what follows them. */
  const end = async () => {
    const code = await ended;
    const lines = output.split('\n');
    const broken = lines.filter((_, i) =>
      lines.slice(Math.max(0, i - 3), i + 1).some(line => line.includes('✗')),
    );
    return { code, broken };
  };
  return {
    child,
    ended,
    end,
    output: () => output,
    errors: () => errors,
    says: async text => {
      while (!output.includes(text)) {
        const more = await Promise.race([once(child.stdout, 'data'), ended.then(() => undefined)]);
        if (more === undefined)
          throw new Error(`the demo ended without saying "${text}":\n${output}${errors}`);
      }
    },
    leftBehind: () => readdirSync(temporary),
  };
}

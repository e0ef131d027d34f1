/** What the README shows works as it stands: every shell, SQL and YAML block in it is run. */
import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { loadConfig } from '../src/config.ts';
import { createDatabase } from './support/database.ts';
import { createDisk } from './support/disk.ts';

const CHECKOUT = fileURLToPath(new URL('..', import.meta.url));
const README = readFileSync(join(CHECKOUT, 'README.md'), 'utf8');

interface Block {
  readonly language: string;
  readonly text: string;
  /** The heading above it, for the name of its test. */
  readonly heading: string;
}

const BLOCKS: Block[] = [...README.matchAll(/^```(\w+)\n([\s\S]*?)^```$/gm)].map(match => ({
  language: match[1] ?? '',
  text: match[2] ?? '',
  heading:
    README.slice(0, match.index)
      .match(/^## (.*)$/gm)
      ?.at(-1)
      ?.slice(3) ?? 'at the top',
}));
const blocksOf = (language: string) =>
  BLOCKS.filter(block => block.language === language).map(
    (block, i) => [`${i + 1}, ${block.heading}`, block.text] as const,
  );

/** What needs a container engine is run where there is one; its steps are run by `.ci/container.sh`. */
const needsEngine = (text: string) => /^docker /m.test(text);

/** These two are run by whoever runs this suite, and by `.ci/run`: from within it they would remove what it runs on. */
const COMMANDS_OF_ALL = ['npm ci && npm run demo', 'npm ci && npm test'];

it('has the blocks that this test looks for', () => {
  expect(blocksOf('sh').filter(([, text]) => COMMANDS_OF_ALL.includes(text.trim()))).toHaveLength(2);
  expect(blocksOf('sh').length).toBeGreaterThan(2);
  expect(blocksOf('sql').length).toBeGreaterThan(3);
  expect(blocksOf('yaml').length).toBeGreaterThan(0);
});

describe('SQL block', () => {
  it.each(blocksOf('sql'))('%s', async (_, text) => {
    const db = await createDatabase();
    // What the examples are about.
    await db.sql('CREATE TABLE trainings (id text PRIMARY KEY)');
    await db.sql("INSERT INTO trainings VALUES ('t1')");
    await db.sql(text);
  });
});

describe('shell block', () => {
  const blocks = blocksOf('sh').filter(
    ([, text]) => !COMMANDS_OF_ALL.includes(text.trim()) && !needsEngine(text),
  );
  it.each(blocks)('%s', async (_, text) => {
    const db = await createDatabase({ empty: true });
    const disk = createDisk();
    const env: Record<string, string> = { AFTERDELETE_HTTP: '127.0.0.1:0' };
    for (const line of text.split('\n').map(line => line.replace(/\s+#.*$/, '').trim())) {
      if (line === '') continue;
      const [, name, value] = /^export (\w+)="?(.*?)"?$/.exec(line) ?? [];
      if (name === 'DATABASE_URL') env[name] = db.url;
      // Its S3 bucket is not there to be checked.
      else if (name === 'AFTERDELETE_ROOTS') env[name] = disk.root;
      else if (name !== undefined) env[name] = value ?? '';
      else await runLine(line, env);
    }
  });
});

/** Runs a line as it stands, to its end. A daemon is ended as a person at a terminal ends it, once it has started. */
async function runLine(line: string, env: Record<string, string>): Promise<void> {
  const { PATH, HOME, TMPDIR } = process.env;
  const isDaemon = line.endsWith(' run');
  const child = spawn('sh', ['-c', line], {
    cwd: CHECKOUT,
    env: { PATH, HOME, TMPDIR, ...env },
    detached: true,
  });
  let output = '';
  let interrupted = false;
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', text => {
      output += text;
      if (!isDaemon || interrupted || !output.includes('"event":"started"')) return;
      interrupted = true;
      // Ctrl-C goes to all processes of the terminal.
      process.kill(-(child.pid ?? 0), 'SIGINT');
    });
  }
  const code = await new Promise<number | null>(resolve => child.once('close', resolve));
  if (isDaemon) expect(output).toContain('"event":"stopped"');
  else expect({ line, code, output }).toMatchObject({ code: 0 });
}

describe('YAML block', () => {
  it.each(blocksOf('yaml'))('%s', (_, text) => {
    const disk = createDisk();
    const configPath = disk.at('config.yaml');
    writeFileSync(configPath, text);
    const env = {
      DATABASE_URL: 'postgres://app@localhost/app',
      MINIO_ACCESS_KEY: 'a',
      MINIO_SECRET_KEY: 'b',
    };
    expect(loadConfig({ env, configPath }).roots.length).toBeGreaterThan(0);
  });
});

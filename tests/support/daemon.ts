/** The built daemon as a child process: its log read line by line, waited for by event, gone when the test is over. */
import { createInterface } from 'node:readline';
import { onTestFinished } from 'vitest';
import { type Env, spawnCommand } from './command.ts';

export interface DaemonOptions {
  readonly databaseUrl: string;
  /** E.g. `['file:///tmp/x/']`; left out: what `env` says. */
  readonly roots?: readonly string[];
  /** Further variables, over those that this sets. */
  readonly env?: Env;
  /** Arguments before `run`, e.g. `['--config', file]`. */
  readonly args?: readonly string[];
  readonly cwd?: string;
  /** Run as this user. Only root can. */
  readonly uid?: number;
}

export interface LogLine {
  readonly event?: string;
  readonly level: number;
  readonly [field: string]: unknown;
}

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

type Condition = (line: LogLine) => boolean;

export interface Daemon {
  readonly pid: number;
  /** All log lines so far. */
  readonly lines: readonly LogLine[];
  /** Everything on standard error so far. */
  readonly stderr: string;
  /** Resolves when the process has ended, however it ended. */
  readonly exit: Promise<Exit>;
  /** The first log line of that event for which the condition holds, whether it has come already or not. */
  waitFor(event: string, condition?: Condition): Promise<LogLine>;
  /** The same, among the lines that come from now on. */
  next(event: string, condition?: Condition): Promise<LogLine>;
  /** Resolves when so many lines of that event have come in all. */
  count(event: string, count: number): Promise<void>;
  /** Fetches from its HTTP endpoint, e.g. `/readyz`. */
  get(path: string): Promise<{ status: number; text: string }>;
  /** Sends a signal, and resolves when the process has ended. Default: SIGTERM. */
  stop(signal?: NodeJS.Signals): Promise<Exit>;
  /** SIGKILL: it has no time for anything. */
  kill(): Promise<Exit>;
  /** Sends a signal that does not end it, e.g. SIGSTOP. */
  signal(signal: NodeJS.Signals): void;
}

interface Waiter {
  readonly event: string;
  readonly condition: Condition;
  readonly resolve: (line: LogLine) => void;
  readonly reject: (error: Error) => void;
}

/** Starts `afterdelete run` on a free HTTP port; it has not connected yet: wait for `started`. Ends with the test. */
export function startDaemon(options: DaemonOptions): Daemon {
  const { databaseUrl, roots, args = [] } = options;
  const env: Env = {
    DATABASE_URL: databaseUrl,
    AFTERDELETE_HTTP: '127.0.0.1:0',
    ...(roots === undefined ? {} : { AFTERDELETE_ROOTS: roots.join(' ') }),
    ...options.env,
  };
  const child = spawnCommand([...args, 'run'], {
    env,
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.uid === undefined ? {} : { uid: options.uid }),
  });
  const lines: LogLine[] = [];
  const waiters = new Set<Waiter>();
  let stderr = '';
  let ended: Exit | undefined;

  const describe = () =>
    `its last lines:\n${lines
      .slice(-20)
      .map(line => JSON.stringify(line))
      .join('\n')}\n${stderr}`;
  createInterface({ input: child.stdout }).on('line', text => {
    const line = parseLine(text);
    lines.push(line);
    for (const waiter of waiters) {
      if (line.event !== waiter.event || !waiter.condition(line)) continue;
      waiters.delete(waiter);
      waiter.resolve(line);
    }
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  // `close`, not `exit`: all output has been read by then.
  const exit = new Promise<Exit>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => {
      ended = { code, signal };
      for (const { event, reject } of waiters) {
        reject(new Error(`the daemon ended (${code ?? signal}) before ${event}; ${describe()}`));
      }
      waiters.clear();
      resolve(ended);
    });
  });

  const next = (event: string, condition: Condition = () => true) =>
    new Promise<LogLine>((resolve, reject) => {
      if (ended !== undefined)
        reject(new Error(`the daemon has ended; no ${event} will come; ${describe()}`));
      else waiters.add({ event, condition, resolve, reject });
    });
  const waitFor = async (event: string, condition: Condition = () => true) =>
    lines.find(line => line.event === event && condition(line)) ?? (await next(event, condition));
  const stop = async (signal: NodeJS.Signals = 'SIGTERM') => {
    child.kill(signal);
    return await exit;
  };

  onTestFinished(async () => {
    // A stopped process takes no other signal before it goes on, but SIGKILL.
    child.kill('SIGKILL');
    await exit;
  });

  return {
    pid: child.pid ?? 0,
    lines,
    get stderr() {
      return stderr;
    },
    exit,
    waitFor,
    next,
    async count(event, count) {
      const seen = () => lines.filter(line => line.event === event).length;
      while (seen() < count) await next(event);
    },
    async get(path) {
      const { url } = await waitFor('http');
      const response = await fetch(`${url}${path}`, { headers: { connection: 'close' } });
      return { status: response.status, text: await response.text() };
    },
    stop,
    kill: () => stop('SIGKILL'),
    signal: signal => void child.kill(signal),
  };
}

/** A line that is no JSON is kept too: a test that looks for it finds it, and a message shows it. */
function parseLine(text: string): LogLine {
  try {
    return JSON.parse(text) as LogLine;
  } catch {
    return { level: 0, text };
  }
}

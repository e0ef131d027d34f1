/**
 * `npm start`: the daemon, on `DATABASE_URL` or on a PostgreSQL of its own under `.afterdelete/`; Ctrl-C ends everything.
 *
 * A terminal sends Ctrl-C to every process at once, to PostgreSQL too, which would then be gone before the daemon has
 * handed back what it holds. So all the work is in a second process with a process group of its own (session.ts), and
 * this one only passes signals on. When this one vanishes, the other sees its channel close, and ends as well.
 */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const session = spawn(process.execPath, [fileURLToPath(new URL('session.ts', import.meta.url))], {
  detached: true,
  stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
});
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => session.kill(signal));
session.once('error', error => {
  console.error(`npm start: ${error.message}`);
  process.exitCode = 1;
});
session.once('exit', (code, signal) => {
  process.exitCode = code ?? (signal === 'SIGKILL' ? 137 : 1);
  if (session.connected) session.disconnect();
});

/**
 * How the process ends. Node first waits for its threads, and for one that hangs in the kernel (a network mount that is
 * dead) it waits without end: neither SIGTERM nor a second signal would be obeyed.
 */
import { endThreads } from '../handlers/file/threads.ts';

/** Makes sure that the process can end: kills it if a storage call hangs. Nothing else would end it. */
export async function endHanging(tell: (message: string) => void): Promise<void> {
  if (await endThreads()) return;
  tell(
    'a storage call hangs in the kernel, and nothing else would end the process: it kills itself (SIGKILL)',
  );
  process.kill(process.pid, 'SIGKILL');
}

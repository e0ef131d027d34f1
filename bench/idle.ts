/** What an idle daemon costs: `npm run bench:idle`. Connections, and CPU of the daemon and its backends. Linux only. */
import { cpuSeconds, machine, onStage } from './stage.ts';

const SECONDS = Number(process.argv[2] ?? 60);

await onStage(async ({ db, startDaemon }) => {
  const daemon = await startDaemon();
  const backends = async () =>
    (
      await db.sql<{ pid: number }>(
        "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'afterdelete%'",
      )
    ).map(row => row.pid);
  // Until the connections of the start are gone.
  await new Promise(resolve => setTimeout(resolve, 15_000));
  const cpu = new Map<number, number>();
  const pids = async () => [daemon.pid ?? 0, ...(await backends())];
  for (const pid of await pids()) cpu.set(pid, cpuSeconds(pid));
  const began = performance.now();
  let most = 0;
  while (performance.now() - began < SECONDS * 1_000) {
    await new Promise(resolve => setTimeout(resolve, 1_000));
    most = Math.max(most, (await backends()).length);
  }
  let used = 0;
  for (const pid of await pids()) used += cpuSeconds(pid) - (cpu.get(pid) ?? 0);
  const share = (100 * used) / ((performance.now() - began) / 1_000);
  console.log(
    `idle for ${SECONDS} s: at most ${most} connections; daemon and backends used ${used.toFixed(2)} s of CPU, ${share.toFixed(2)}% of a core`,
  );
});
console.log(machine());

/** One daemon in a process of its own with a handler that does nothing; ends when so many rows are settled. */
import { createReconciler } from '../dist/index.js';
const [url, count, options = '{}'] = process.argv.slice(2);
const noop = {
  scheme: 'noop',
  batchSize: 1000,
  delete: async (batch: any) => batch.map(() => ({ outcome: 'deleted', objects: 1, bytes: null })),
  inspect: async () => ({ exists: true, objects: 1, bytes: null }),
  probe: async () => {},
};
const reconciler = createReconciler({ databaseUrl: url as string, roots: ['noop://store/'], handlers: [noop as any], ...JSON.parse(options) });
let done = 0;
let started = 0;
const all = new Promise<void>(resolve => reconciler.events.on('cleanup_done', () => { if (++done === Number(count)) resolve(); }));
reconciler.events.on('trouble', (t: any) => console.error(t));
started = performance.now();
await reconciler.start();
await all;
const s = (performance.now() - started) / 1000;
console.log(JSON.stringify({ seconds: s, rate: Math.round(done / s), rss: Math.round(process.memoryUsage().rss / 2 ** 20), cpu: process.cpuUsage() }));
await reconciler.stop();

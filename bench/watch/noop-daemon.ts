/** A daemon as a process of its own, with all that it asks and writes, whose handler deletes nothing. */
import type { Handler } from '../../src/handlers/contract.ts';
import { createReconciler } from '../../src/reconciler/reconciler.ts';

const [databaseUrl = '', root = ''] = process.argv.slice(2);
const handler: Handler = {
  scheme: 'file',
  batchSize: 1_000,
  delete: async batch => batch.map(() => ({ outcome: 'deleted', objects: 1, bytes: 0 })),
  inspect: async () => ({ exists: true, objects: 1, bytes: 0 }),
  probe: async () => {},
};
const reconciler = createReconciler({ databaseUrl, roots: [root], handlers: [handler] });
reconciler.events.on('trouble', ({ doing, error }) => console.error(doing, error));
reconciler.events.once('listen_restored', () => process.send?.('listening'));
await reconciler.start();

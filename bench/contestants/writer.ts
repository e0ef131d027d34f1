/**
 * Writers beside a daemon, in a process of their own: so many connections, each of which commits one cleanup after the other.
 * `node writer.ts URL CONNECTIONS PREFIX`; tells by IPC how many were committed when it is asked.
 */
import pg from 'pg';

const [url = '', connections = '8', prefix = ''] = process.argv.slice(2);

let committed = 0;
let over = false;

async function write(client: pg.Client, name: string): Promise<void> {
  for (let i = 0; !over; i++) {
    await client.query({
      name: 'write',
      text: 'INSERT INTO afterdelete.pending_file_cleanup (target) VALUES ($1)',
      values: [`${prefix}${name}-${i}`],
    });
    committed += 1;
  }
  await client.end();
}

const clients = await Promise.all(
  Array.from({ length: Number(connections) }, async () => {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    return client;
  }),
);
process.on('message', message => {
  if (message === 'end') over = true;
  else process.send?.(committed);
});
process.on('disconnect', () => process.exit());
await Promise.all(clients.map((client, n) => write(client, `${process.pid}-${n}`)));
process.exit();

/** The server that tests have databases on: one statement at a time, and the addresses of its databases. */
import pg from 'pg';

/** The same server, another database; as another role, whose password is its name. */
export function databaseUrl(url: string, database: string, role?: string): string {
  const other = new URL(url);
  other.pathname = `/${database}`;
  if (role !== undefined) {
    other.username = role;
    other.password = role;
  }
  return other.href;
}

/** Runs one statement on a connection of its own, as CREATE DATABASE needs it. */
export async function execute(url: string, sql: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query(sql);
  } finally {
    await client.end();
  }
}

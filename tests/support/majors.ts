/** One server for each major of PostgreSQL, started when a test first asks for it, and shared by the whole run. */
import { mkdtempSync } from 'node:fs';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { migrate } from '../../src/outbox/migrate.ts';
import { quickPlace } from './memory.ts';
import { PACKAGES, type PostgresMajor, type PostgresServer, startPostgres } from './postgres.ts';
import { databaseUrl, execute } from './server.ts';

/** The majors that are promised. */
export const MAJORS: readonly PostgresMajor[] = [15, 16, 17, 18];

/** Whether the binaries of a major are there. */
export function isInstalled(major: PostgresMajor): boolean {
  try {
    createRequire(import.meta.url).resolve(PACKAGES[major]);
    return true;
  } catch {
    return false;
  }
}

/** Name of the database to clone on each of these servers. */
export const KEPT_TEMPLATE = 'kept_template';

/**
 * Roles on these servers; each logs in with its name as password. None is a superuser.
 * - `keeper` owns the schema afterdelete, and the databases that are cloned;
 * - `maker` owns tables that it shares with the keeper;
 * - `clerk` may DELETE from a table, and nothing else;
 * - `stranger` may nothing.
 */
export const ROLES = ['keeper', 'maker', 'clerk', 'stranger'] as const;

/**
 * Serves the connection string of each major's server: tests run in processes of their own, and must not start four
 * servers a file.
 */
export async function serveMajors(): Promise<{ url: string; close(): Promise<void> }> {
  const servers = new Map<PostgresMajor, Promise<PostgresServer>>();
  const get = (major: PostgresMajor) => {
    const server = servers.get(major) ?? start(major);
    servers.set(major, server);
    return server;
  };
  const http = createServer((request, response) => {
    get(Number(request.url?.slice(1)) as PostgresMajor).then(
      server => response.end(server.url()),
      (error: Error) => response.writeHead(500).end(error.message),
    );
  });
  await new Promise<void>(resolve => http.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(http.address() as AddressInfo).port}`,
    close: async () => {
      http.closeAllConnections();
      http.close();
      await Promise.allSettled([...servers.values()].map(async server => (await server).destroy()));
    },
  };
}

async function start(major: PostgresMajor): Promise<PostgresServer> {
  const server = await startPostgres({
    major,
    directory: mkdtempSync(join(quickPlace(), 'afterdelete-pg-')),
  });
  for (const role of ROLES) await execute(server.url(), `CREATE ROLE ${role} LOGIN PASSWORD '${role}'`);
  await execute(server.url(), `CREATE DATABASE ${KEPT_TEMPLATE} OWNER keeper`);
  await migrate(databaseUrl(server.url(), KEPT_TEMPLATE, 'keeper'));
  return server;
}

/** One PostgreSQL for the whole run, with a migrated template database that every test clones. */
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import type { TestProject } from 'vitest/node';
import { migrate } from '../../src/outbox/migrate.ts';
import { serveMajors } from './majors.ts';
import { quickPlace } from './memory.ts';
import { type PostgresServer, startPostgres } from './postgres.ts';
import { databaseUrl, execute } from './server.ts';

declare module 'vitest' {
  interface ProvidedContext {
    /** Connection string of the server's maintenance database. */
    serverUrl: string;
    /** Name of the database to clone: the schema is in it. */
    template: string;
    /** Where the connection string of a server of each major is to be had. */
    majors: string;
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const given = process.env.AFTERDELETE_TEST_DATABASE_URL;
  const server: PostgresServer | undefined = given ? undefined : await startInMemory();
  const serverUrl = given ?? (server as PostgresServer).url();
  const template = `afterdelete_template_${process.pid}`;
  await execute(serverUrl, `CREATE DATABASE ${template}`);
  await migrate(databaseUrl(serverUrl, template));
  project.provide('serverUrl', serverUrl);
  project.provide('template', template);
  const majors = await serveMajors();
  project.provide('majors', majors.url);
  return async () => {
    await majors.close();
    if (server) await server.destroy();
    else await execute(serverUrl, `DROP DATABASE IF EXISTS ${template} WITH (FORCE)`);
  };
}

/** Hundreds of databases are made and dropped: in memory each takes 8 ms instead of 80. */
async function startInMemory(): Promise<PostgresServer> {
  return await startPostgres({ directory: mkdtempSync(join(quickPlace(), 'afterdelete-pg-')) });
}

/** Whether the schema is still the one that this program was written for: a newer version may migrate it while this one runs. */
import type { Database } from '../outbox/database.ts';
import { isSchemaError } from '../outbox/errors.ts';
import { assertSchema, bundledMigrations, SchemaMismatchError } from '../outbox/migrate.ts';

export class SchemaWatch {
  readonly #db: Database;
  readonly #onChanged: (reason: string) => void;
  /** Read once: an upgrade replaces the files under a running daemon, which would then take itself for the new version. */
  readonly #migrations = bundledMigrations();

  /** `onChanged`: the schema is that of another version; `reason` says which, and what to do. */
  constructor(db: Database, onChanged: (reason: string) => void) {
    this.#db = db;
    this.#onChanged = onChanged;
  }

  /** @throws SchemaMismatchError when the database has the schema of another version. */
  async assert(): Promise<void> {
    await assertSchema(this.#db, this.#migrations);
  }

  /** Looks again, and tells of a change. @throws when the database cannot be asked. */
  async check(): Promise<void> {
    try {
      await this.assert();
    } catch (error) {
      if (!(error instanceof SchemaMismatchError)) throw error;
      this.#onChanged(error.message);
    }
  }

  /** Something failed: looks at once, rather than with the next heartbeat, if it may be for that. */
  suspect(error: unknown): void {
    // What cannot be asked now is asked by the next heartbeat.
    if (isSchemaError(error)) this.check().catch(() => {});
  }
}

-- Which rows of Heimdall hold which recordings, and what else keeps them. Run it after schema.sql and `afterdelete
-- migrate`, as the role that owns both the tables and the schema afterdelete; and again whenever something in it has
-- changed.

-- Older generators wrote to dataset-{id}/, and nobody recorded which; a prefix under which nothing is stored ends as
-- `absent`. Data sets of type feature_based hold nothing: one that is made into such gives its recordings up.
SELECT afterdelete.watch('heimdall.synthetic_datasets', 's3://heimdall-synthetic-iq/synthetic/{id}/',
                         condition => $$dataset_type = 'iq_raw'$$);
SELECT afterdelete.watch('heimdall.synthetic_datasets', 's3://heimdall-synthetic-iq/synthetic/dataset-{id}/',
                         condition => $$dataset_type = 'iq_raw'$$);

-- Recordings outlive their data set while an active model uses them. The API refuses to delete such a data set; a DELETE
-- in psql does not ask, and ON DELETE SET NULL would make PostgreSQL forget, with the row, which models used it. A guard
-- can ask only what is still written down: so models remember what they were trained on.
ALTER TABLE heimdall.models ADD COLUMN IF NOT EXISTS trained_on uuid;
COMMENT ON COLUMN heimdall.models.trained_on IS 'The last data set that synthetic_dataset_id named; it stays when that is deleted. Kept by a trigger.';
CREATE INDEX IF NOT EXISTS models_active_trained_on ON heimdall.models (trained_on) WHERE is_active;

CREATE OR REPLACE FUNCTION heimdall.remember_dataset() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.trained_on := coalesce(NEW.synthetic_dataset_id, NEW.trained_on);
  RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER remember_dataset BEFORE INSERT OR UPDATE ON heimdall.models
  FOR EACH ROW EXECUTE FUNCTION heimdall.remember_dataset();
-- Those that were there before.
UPDATE heimdall.models SET trained_on = synthetic_dataset_id WHERE trained_on IS NULL AND synthetic_dataset_id IS NOT NULL;

-- True blocks a cleanup: of a data set's prefix, and of whatever lies below it.
CREATE OR REPLACE FUNCTION heimdall.dataset_in_use(target text) RETURNS boolean LANGUAGE sql STABLE RETURN EXISTS (
  SELECT FROM heimdall.models m
   WHERE m.is_active
     AND m.trained_on = substring(target FROM '^s3://heimdall-synthetic-iq/synthetic/(?:dataset-)?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/')::uuid);
SELECT afterdelete.guard('used by an active model', 'heimdall.dataset_in_use(text)');

-- What the API may see of the outbox: what has become of a request's deletions. A view reads with the rights of its
-- owner. A cleanup moves from table to table; one statement has one snapshot, which finds it in exactly one of them.
CREATE OR REPLACE VIEW heimdall.cleanup_statistics AS
SELECT actor AS request_id,
       coalesce(sum(objects_deleted), 0)::float8 AS minio_files_deleted,
       coalesce(sum(bytes_freed), 0)::float8 AS bytes_freed,
       (count(*) FILTER (WHERE state = 'waiting'))::int AS waiting,
       (count(*) FILTER (WHERE state = 'failed'))::int AS failed
  FROM (SELECT actor, 'waiting' AS state, objects_deleted, bytes_freed FROM afterdelete.pending_file_cleanup
        UNION ALL
        SELECT actor, 'waiting', objects_deleted, bytes_freed FROM afterdelete.running_file_cleanup
        UNION ALL
        SELECT actor, 'failed', objects_deleted, bytes_freed FROM afterdelete.dead_file_cleanup
        UNION ALL
        SELECT actor, 'done', objects_deleted, bytes_freed FROM afterdelete.done_file_cleanup) AS cleanup
 GROUP BY actor;

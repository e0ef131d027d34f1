-- Which rows of miStudio hold which files. Run it after schema.sql and `afterdelete migrate`, as the role that owns both
-- the tables and the schema afterdelete; and again whenever something in it has changed. Another data directory than
-- /data is written here, and nowhere else.

-- A training holds its own directory from the start: one that fails early has a log there and no checkpoint_dir. The
-- slash at the end makes it a tree, and keeps train_1/ apart from train_10/.
SELECT afterdelete.watch('trainings', 'file:///data/trainings/{id}/');

-- And the directory of its checkpoints, once it has one. Some rows have the slash at its end, and some have not.
SELECT afterdelete.watch('trainings', 'file://{+checkpoint_dir}', condition => $$checkpoint_dir LIKE '%/'$$);
SELECT afterdelete.watch('trainings', 'file://{+checkpoint_dir}/', condition => $$checkpoint_dir NOT LIKE '%/'$$);

-- checkpoint_N/layer_M/checkpoint.safetensors: both directories go with their last file. One level too many for
-- trainings of a single layer does no harm: pruning stops at a directory that a live row holds, as checkpoint_dir.
SELECT afterdelete.watch('checkpoints', 'file://{+storage_path}', prune_parents => 2);

SELECT afterdelete.watch('datasets', 'file://{+raw_path}');
SELECT afterdelete.watch('datasets', 'file://{+tokenized_path}');

-- With these the guard finds at once who holds a path or something below it; `afterdelete check` names those that are
-- missing. For large tables in use: CREATE INDEX CONCURRENTLY, beforehand.
CREATE INDEX IF NOT EXISTS trainings_by_path ON trainings (checkpoint_dir text_pattern_ops);
CREATE INDEX IF NOT EXISTS checkpoints_by_path ON checkpoints (storage_path text_pattern_ops);
CREATE INDEX IF NOT EXISTS datasets_by_raw_path ON datasets (raw_path text_pattern_ops);
CREATE INDEX IF NOT EXISTS datasets_by_tokenized_path ON datasets (tokenized_path text_pattern_ops);

-- What the service may see of the audit trail. A view reads with the rights of its owner.
CREATE OR REPLACE VIEW space_freed AS
  -- float8 reaches JavaScript as a number, and is exact up to 9 petabytes.
  SELECT actor, coalesce(sum(objects_deleted), 0)::float8 AS files, coalesce(sum(bytes_freed), 0)::float8 AS bytes
    FROM afterdelete.done_file_cleanup GROUP BY actor;

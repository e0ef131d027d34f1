-- miStudio: what it had before it knew of afterdelete, and no column more. Files lie below /data.

CREATE TABLE trainings (
  -- Part of a path, so nothing that means something in one.
  id             text PRIMARY KEY CHECK (id ~ '^train_[0-9a-z]+$'),
  name           text NOT NULL,
  -- NULL until the first checkpoint: the directory is then /data/trainings/{id}/.
  -- UNIQUE, because two that wrote to one directory would overwrite each other's checkpoints.
  checkpoint_dir text UNIQUE CHECK (checkpoint_dir LIKE '/_%'),
  created_at     timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE checkpoints (
  id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  training_id  text NOT NULL REFERENCES trainings ON DELETE CASCADE,
  step         integer NOT NULL CHECK (step >= 0),
  -- NULL for trainings of a single layer: they have no directory for it.
  layer        integer CHECK (layer >= 0),
  storage_path text NOT NULL UNIQUE CHECK (storage_path LIKE '/_%'),
  UNIQUE NULLS NOT DISTINCT (training_id, step, layer)
);

CREATE TABLE datasets (
  id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  name           text NOT NULL,
  -- A path that ends with a slash is a directory, any other a file: so afterdelete reads them, too. What was downloaded
  -- once may be tokenized in several ways, by data sets that share it.
  raw_path       text CHECK (raw_path LIKE '/_%'),
  tokenized_path text UNIQUE CHECK (tokenized_path LIKE '/_%')
);

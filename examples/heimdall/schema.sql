-- Heimdall: what it had before it knew of afterdelete, and no column more. IQ files lie in S3 (MinIO).

CREATE SCHEMA heimdall;

CREATE TABLE heimdall.training_jobs (
  id     uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  status text NOT NULL DEFAULT 'pending'
         CHECK (status IN ('pending', 'queued', 'running', 'completed', 'failed', 'cancelled'))
);

CREATE TABLE heimdall.synthetic_datasets (
  id                uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  name              text NOT NULL UNIQUE,
  -- iq_raw: recordings in s3://heimdall-synthetic-iq; feature_based: rows of synthetic_training_samples, and no files.
  dataset_type      text NOT NULL CHECK (dataset_type IN ('iq_raw', 'feature_based')),
  num_samples       integer NOT NULL DEFAULT 0,
  -- A data set outlives the job that made it.
  created_by_job_id uuid REFERENCES heimdall.training_jobs ON DELETE SET NULL
);
CREATE INDEX ON heimdall.synthetic_datasets (created_by_job_id);

CREATE TABLE heimdall.synthetic_iq_samples (
  dataset_id   uuid NOT NULL REFERENCES heimdall.synthetic_datasets ON DELETE CASCADE,
  sample_index integer NOT NULL,
  PRIMARY KEY (dataset_id, sample_index)
);

CREATE TABLE heimdall.synthetic_training_samples (
  dataset_id   uuid NOT NULL REFERENCES heimdall.synthetic_datasets ON DELETE CASCADE,
  sample_index integer NOT NULL,
  features     double precision[] NOT NULL,
  PRIMARY KEY (dataset_id, sample_index)
);

CREATE TABLE heimdall.models (
  id                   uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  model_name           text NOT NULL UNIQUE,
  is_active            boolean NOT NULL DEFAULT false,
  synthetic_dataset_id uuid REFERENCES heimdall.synthetic_datasets ON DELETE SET NULL
);
CREATE INDEX ON heimdall.models (synthetic_dataset_id);

/** The tables of schema.sql, as far as the services touch them, in Kysely's terms. */
import type { Generated } from 'kysely';

export interface Database {
  'heimdall.training_jobs': {
    id: Generated<string>;
    status: Generated<'pending' | 'queued' | 'running' | 'completed' | 'failed' | 'cancelled'>;
  };
  'heimdall.synthetic_datasets': {
    id: Generated<string>;
    name: string;
    dataset_type: 'iq_raw' | 'feature_based';
    num_samples: Generated<number>;
    created_by_job_id: string | null;
  };
  'heimdall.models': {
    id: Generated<string>;
    model_name: string;
    is_active: Generated<boolean>;
    synthetic_dataset_id: string | null;
  };
  /** A view of watches.sql. */
  'heimdall.cleanup_statistics': {
    request_id: string;
    minio_files_deleted: number;
    bytes_freed: number;
    waiting: number;
    failed: number;
  };
}

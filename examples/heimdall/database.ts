/** The tables of schema.sql, as far as the service touches them, in Kysely's terms. */
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
    created_by_job_id: string | null;
  };
  'heimdall.models': {
    id: Generated<string>;
    model_name: string;
    is_active: Generated<boolean>;
    synthetic_dataset_id: string | null;
  };
}

-- The roles that Heimdall's services log in with. Run it after watches.sql and sql/optional/roles.sql, as the owner of the
-- tables with CREATEROLE; then give them passwords.

-- The API deletes: rights on its own tables, and none in the schema afterdelete.
CREATE ROLE heimdall_api LOGIN;
GRANT USAGE ON SCHEMA heimdall TO heimdall_api;
GRANT SELECT, INSERT, UPDATE, DELETE ON heimdall.training_jobs, heimdall.synthetic_datasets, heimdall.synthetic_iq_samples,
  heimdall.synthetic_training_samples, heimdall.models TO heimdall_api;
GRANT SELECT ON heimdall.cleanup_statistics TO heimdall_api;

-- The generator uploads: it reserves what it is about to write.
CREATE ROLE heimdall_generator LOGIN;
GRANT USAGE ON SCHEMA heimdall TO heimdall_generator;
GRANT INSERT ON heimdall.synthetic_datasets, heimdall.synthetic_iq_samples TO heimdall_generator;
GRANT afterdelete_writer TO heimdall_generator;

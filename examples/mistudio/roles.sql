-- The role that miStudio's service logs in with: rights on its own tables, and none in the schema afterdelete. Run it
-- after watches.sql, as the owner of the tables with CREATEROLE; then give it a password: \password mistudio_service

CREATE ROLE mistudio_service LOGIN;
GRANT SELECT, INSERT, UPDATE, DELETE ON trainings, checkpoints, datasets TO mistudio_service;
GRANT SELECT ON space_freed TO mistudio_service;

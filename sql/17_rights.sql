-- Nobody may call anything here by default; the schema's owner may, and whom sql/optional/roles.sql names.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA afterdelete FROM PUBLIC;

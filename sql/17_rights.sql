-- Nobody may call anything here by default; the schema's owner may, and whom sql/roles.sql (optional) names.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA afterdelete FROM PUBLIC;

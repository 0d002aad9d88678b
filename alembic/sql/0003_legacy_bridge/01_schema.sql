CREATE SCHEMA bridge;
COMMENT ON SCHEMA bridge IS 'Keeps the legacy tables and the unified schema in step.'

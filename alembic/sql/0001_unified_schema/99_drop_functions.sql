DROP FUNCTION create_commented(text);
DROP FUNCTION lock_holders(regclass[], boolean);
DROP FUNCTION retry_locking(text, integer);
DROP FUNCTION lock_unified_tables(text);
DROP FUNCTION free_dated_name(text);
DROP FUNCTION copy_row_security(regclass, regclass);
DROP FUNCTION refuse_write()

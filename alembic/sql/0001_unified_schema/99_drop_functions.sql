DROP FUNCTION public.create_commented(text);
DROP FUNCTION public.lock_holders(regclass[], boolean);
DROP FUNCTION public.retry_locking(text, integer);
DROP FUNCTION public.lock_unified_tables(text);
DROP FUNCTION public.free_dated_name(text);
DROP FUNCTION public.copy_row_security(regclass, regclass);
DROP FUNCTION public.follow_legacy_rights(text);
DROP FUNCTION public.restrict_to_owner();
DROP FUNCTION public.refuse_write()

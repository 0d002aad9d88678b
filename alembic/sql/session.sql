-- Settings of the migrating session. Everything below resolves names in public, reads and writes
-- times in UTC, never waits long for a lock, and frees its locks at once when its client dies.
SET search_path = public;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET lock_timeout = '5s';
SET statement_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_connection_check_interval = '500ms';
SET client_min_messages = notice;
SET default_transaction_isolation = 'read committed';
SET default_transaction_read_only = off;
SET standard_conforming_strings = on;
SET quote_all_identifiers = off;
SET jit = off

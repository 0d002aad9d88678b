-- The bridge's own memory. It lives beside the data that it is about, so that a run that was
-- killed, a script and a later command all find the same state.
CREATE SCHEMA bridge;
COMMENT ON SCHEMA bridge IS 'Keeps the legacy tables and the unified schema in step.';

CREATE TABLE bridge.source (
    legacy_name text PRIMARY KEY,
    relation regclass NOT NULL,
    created_here boolean NOT NULL,
    signature text,
    token_expression text
);
COMMENT ON TABLE bridge.source IS 'The two legacy tables.';
COMMENT ON COLUMN bridge.source.legacy_name IS 'Name that the application uses.';
COMMENT ON COLUMN bridge.source.relation IS 'The table itself: after the cut-over, the dated backup.';
COMMENT ON COLUMN bridge.source.created_here IS 'It did not exist; the bridge created it, empty.';
COMMENT ON COLUMN bridge.source.signature IS 'Columns and types that its adapter was built for.';
COMMENT ON COLUMN bridge.source.token_expression IS 'SQL that yields the token of a row, alias t.';

CREATE TABLE bridge.state (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    sync boolean NOT NULL DEFAULT false,
    one_by_one boolean NOT NULL DEFAULT false,
    merged_at timestamptz,
    retired_at timestamptz,
    adapters_changed boolean NOT NULL DEFAULT false,
    verify_since timestamptz
);
COMMENT ON TABLE bridge.state IS 'Where the migration stands; one row.';
COMMENT ON COLUMN bridge.state.sync IS 'False: triggers only note. True: they also sync at once.';
COMMENT ON COLUMN bridge.state.one_by_one IS 'Until 0006 has drained: one connection at a time begins to sync.';
COMMENT ON COLUMN bridge.state.merged_at IS 'When the merge reached the end.';
COMMENT ON COLUMN bridge.state.retired_at IS 'When a downgrade had carried everything back.';
COMMENT ON COLUMN bridge.state.adapters_changed IS
    'Adapters were rebuilt for other columns, and no merge has gone through all sessions since.';
COMMENT ON COLUMN bridge.state.verify_since IS
    'Begin of the verification that is going on: a range that was looked at since needs no other look.';
INSERT INTO bridge.state DEFAULT VALUES;

-- Append-only: writers never meet here, and what an aborted transaction noted goes with it.
CREATE TABLE bridge.pending (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    side text NOT NULL CHECK (side IN ('legacy', 'unified')),
    token text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    xact xid8 NOT NULL DEFAULT pg_current_xact_id(),
    deleted boolean NOT NULL DEFAULT false,
    student_id uuid,
    student_name text
);
CREATE INDEX ON bridge.pending (token);
COMMENT ON TABLE bridge.pending IS 'Tokens that were written on one side and not yet carried over.';
COMMENT ON COLUMN bridge.pending.side IS 'Which world was written.';
COMMENT ON COLUMN bridge.pending.at IS
    'When; of two sides the later one decides. -infinity: nobody wrote, it is to be looked at again.';
COMMENT ON COLUMN bridge.pending.xact IS 'The writer''s transaction, which syncs as it commits.';
COMMENT ON COLUMN bridge.pending.deleted IS 'Of the unified side: the session itself was deleted.';
COMMENT ON COLUMN bridge.pending.student_id IS 'Student of the unified schema that was given a name, if one was.';
COMMENT ON COLUMN bridge.pending.student_name IS 'The name that the student was given, which may be none.';

-- What the legacy tables cannot say. The mapping applies a value for as long as it says what it said
-- when the value was kept: a later legacy change wins.
CREATE TABLE bridge.remainder (
    table_name text NOT NULL,
    key text NOT NULL,
    step_number integer NOT NULL DEFAULT 0,
    column_name text NOT NULL,
    value jsonb,
    over jsonb,
    PRIMARY KEY (key, table_name, column_name, step_number)
);
COMMENT ON TABLE bridge.remainder IS 'Values of the unified schema that the mapping does not yield.';
COMMENT ON COLUMN bridge.remainder.table_name IS 'students, sessions, step_progress or events.';
COMMENT ON COLUMN bridge.remainder.key IS 'Address of a student, token of a session or step, id of an event.';
COMMENT ON COLUMN bridge.remainder.step_number IS 'Step, else 0.';
COMMENT ON COLUMN bridge.remainder.column_name IS
    'Column; (row): the whole row is there (value true) or not there (false) against the mapping.';
COMMENT ON COLUMN bridge.remainder.value IS 'What the unified schema holds; NULL is NULL.';
COMMENT ON COLUMN bridge.remainder.over IS 'What the mapping says instead; of a (row), the whole row.';

-- A student is found from a session by sessions.student_id. An address that lost to another one in
-- the same session leads to no session, so the bridge remembers where it was seen.
CREATE TABLE bridge.other_address (
    token text,
    student_email text,
    PRIMARY KEY (token, student_email)
);
CREATE INDEX ON bridge.other_address (student_email);
COMMENT ON TABLE bridge.other_address IS 'Sessions whose two legacy rows name different addresses.'

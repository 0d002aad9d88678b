-- The tables of the bridge. A killed run, a script and a later command find the same state in them.
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
COMMENT ON COLUMN bridge.source.created_here IS 'The table did not exist; the bridge created it, empty.';
COMMENT ON COLUMN bridge.source.signature IS 'Columns and types that the adapter was built for.';
COMMENT ON COLUMN bridge.source.token_expression IS 'SQL expression for the token of a row, alias t.';

CREATE TABLE bridge.state (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    sync boolean NOT NULL DEFAULT false,
    stage text CHECK (stage IN ('sources', 'students', 'sessions')),
    cursor_at text NOT NULL DEFAULT '',
    sessions bigint NOT NULL DEFAULT 0,
    merged_at timestamptz,
    retired_at timestamptz
);
COMMENT ON TABLE bridge.state IS 'State of the migration; one row.';
COMMENT ON COLUMN bridge.state.sync IS 'False: triggers only log. True: each transaction also applies its changes as it commits.';
COMMENT ON COLUMN bridge.state.stage IS 'Stage of the backfill that is running; NULL: none.';
COMMENT ON COLUMN bridge.state.cursor_at IS 'Last key, in key order, that this stage has done.';
COMMENT ON COLUMN bridge.state.sessions IS 'Sessions that the backfill has done so far.';
COMMENT ON COLUMN bridge.state.merged_at IS 'When the backfill reached the end.';
COMMENT ON COLUMN bridge.state.retired_at IS 'When a downgrade had handed everything back to the legacy tables.';
INSERT INTO bridge.state DEFAULT VALUES;

-- Append-only: writers never wait for each other here, and an aborted transaction leaves nothing.
CREATE TABLE bridge.change_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    side text NOT NULL CHECK (side IN ('legacy', 'unified')),
    token text COLLATE "C" NOT NULL,
    before jsonb,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    xact xid8 NOT NULL DEFAULT pg_current_xact_id()
);
CREATE INDEX ON bridge.change_log (token);
COMMENT ON TABLE bridge.change_log IS 'Changes of an application on one side that are not applied to the other side yet.';
COMMENT ON COLUMN bridge.change_log.side IS 'Tables that the application wrote: legacy or unified.';
COMMENT ON COLUMN bridge.change_log.before IS
    'Unified side, UPDATE: the session as it was; of a student, student_email and student_name as they were.';
COMMENT ON COLUMN bridge.change_log.at IS 'Time of the change.';
COMMENT ON COLUMN bridge.change_log.xact IS 'Transaction of the writer.';

-- Stored, so that students can be computed without reading the legacy tables.
CREATE TABLE bridge.student_source (
    token text COLLATE "C" NOT NULL,
    legacy_name text NOT NULL,
    student_email text COLLATE "C" NOT NULL,
    student_name text,
    row_at timestamptz,
    seen_at timestamptz,
    of_session boolean NOT NULL
);
CREATE INDEX student_source_token ON bridge.student_source (token);
CREATE INDEX student_source_email ON bridge.student_source (student_email);
COMMENT ON TABLE bridge.student_source IS 'Name, address and times of a student in each legacy row.';
COMMENT ON COLUMN bridge.student_source.token IS 'Token of the row.';
COMMENT ON COLUMN bridge.student_source.legacy_name IS 'Legacy table of the row.';
COMMENT ON COLUMN bridge.student_source.student_email IS 'Address in the row, else the address of its session.';
COMMENT ON COLUMN bridge.student_source.student_name IS 'Name in the row.';
COMMENT ON COLUMN bridge.student_source.row_at IS 'Time of the last write of the row.';
COMMENT ON COLUMN bridge.student_source.seen_at IS 'Earliest time in the row.';
COMMENT ON COLUMN bridge.student_source.of_session IS 'True: the session belongs to this student.';

-- An override keeps its value in the unified tables until the mapped value changes. The downgrade keeps this table aside,
-- together with the columns that only the unified tables have.
CREATE TABLE bridge.override (
    table_name text NOT NULL,
    key text COLLATE "C" NOT NULL,
    step_number integer NOT NULL DEFAULT 0,
    column_name text NOT NULL,
    value jsonb,
    over jsonb,
    PRIMARY KEY (key, table_name, column_name, step_number)
);
CREATE INDEX override_student_id ON bridge.override ((value #>> '{}')) WHERE column_name = 'student_id';
COMMENT ON TABLE bridge.override IS 'Values of the unified tables that the legacy tables cannot hold.';
COMMENT ON COLUMN bridge.override.table_name IS 'students, sessions, step_progress or events.';
COMMENT ON COLUMN bridge.override.key IS 'Address of a student, token of a session or step, id of an event.';
COMMENT ON COLUMN bridge.override.step_number IS 'Number of the step; 0 for other tables.';
COMMENT ON COLUMN bridge.override.column_name IS
    'Column. (row): the row exists (true, or the whole row) or does not exist (false), against the mapping.';
COMMENT ON COLUMN bridge.override.value IS 'Value in the unified table.';
COMMENT ON COLUMN bridge.override.over IS 'Mapped value at that time.';

-- The legacy columns that apply() writes.
CREATE TABLE bridge.legacy_column (
    legacy_name text,
    legacy_column text,
    column_name text NOT NULL,
    is_number boolean NOT NULL,
    instead_of_null text,
    PRIMARY KEY (legacy_name, legacy_column)
);
COMMENT ON TABLE bridge.legacy_column IS 'Legacy columns, and the unified column of each.';
COMMENT ON COLUMN bridge.legacy_column.legacy_name IS 'Legacy table.';
COMMENT ON COLUMN bridge.legacy_column.legacy_column IS 'Column of the legacy table.';
COMMENT ON COLUMN bridge.legacy_column.column_name IS 'Column of sessions, or student_email, student_name.';
COMMENT ON COLUMN bridge.legacy_column.is_number IS 'True: a numeric type; true and false become 1 and 0.';
COMMENT ON COLUMN bridge.legacy_column.instead_of_null IS 'Text for NULL, where the column is NOT NULL.'

-- The tables of the bridge. A killed run, a script and a later command find the same state in them.
SELECT public.create_commented($tables$
CREATE TABLE bridge.source (  -- The two legacy tables.
    legacy_name text PRIMARY KEY,  -- Name that the application uses.
    relation regclass NOT NULL,  -- The table itself: after the cut-over, the dated backup.
    created_here boolean NOT NULL,  -- The table did not exist; the bridge created it, empty.
    signature text,  -- Columns, types and key that the adapter was built for.
    token_expression text  -- SQL expression for the token of a row, alias t.
);

CREATE TABLE bridge.state (  -- State of the migration; one row.
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    sync boolean NOT NULL DEFAULT false,  -- False: triggers only log. True: each transaction also applies its changes as it commits.
    stage text CHECK (stage IN ('sources', 'students', 'sessions', 'end')),  -- Stage of the backfill that is running; NULL: none.
    cursor_at text NOT NULL DEFAULT '',  -- Last key, in key order, that this stage has done.
    sessions bigint NOT NULL DEFAULT 0,  -- Sessions that the backfill has done so far.
    merged_at timestamptz,  -- When the backfill reached the end.
    retired_at timestamptz  -- When a downgrade had handed everything back to the legacy tables.
);
INSERT INTO bridge.state DEFAULT VALUES;

-- Append-only: writers never wait for each other here, and an aborted transaction leaves nothing.
CREATE TABLE bridge.change_log (  -- Changes of an application, on the legacy or the unified side, that are not applied yet.
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    side text NOT NULL CHECK (side IN ('legacy', 'unified', 'student')),  -- What the application wrote: a legacy row, a session, or its student.
    token text NOT NULL,
    before jsonb,  -- unified: the session as it was; {}: deleted; NULL: inserted. student: {student_email, student}, the address and the row as they were.
    at timestamptz NOT NULL DEFAULT clock_timestamp(),  -- Time of the change.
    xact xid8 NOT NULL DEFAULT pg_current_xact_id()  -- Transaction of the writer.
);
CREATE INDEX ON bridge.change_log (token);

-- Stored, so that a student can be computed without reading the legacy tables.
CREATE TABLE bridge.student_source (  -- Name, address and times of a student in each legacy row.
    token text NOT NULL,  -- Token of the row.
    legacy_name text NOT NULL,  -- Legacy table of the row.
    student_email text NOT NULL,  -- Address in the row, else the address of its session.
    student_name text,  -- Name in the row.
    row_at timestamptz,  -- Time of the last write of the row.
    seen_at timestamptz,  -- Earliest time in the row.
    of_session boolean NOT NULL  -- True: the session belongs to this student.
);
CREATE INDEX student_source_token ON bridge.student_source (token);
CREATE INDEX student_source_email ON bridge.student_source (student_email);

-- A value here stays in the unified schema for as long as the mapping says what it said when the value was
-- recorded. The downgrade keeps this table aside, with the values of columns that are the unified schema's own.
CREATE TABLE bridge.override (  -- Values of the unified tables that the legacy tables cannot hold.
    table_name text NOT NULL,  -- students, sessions, step_progress or events. kept ...: not restored yet. Of an earlier attempt: prior students (the row), prior copies (hash), prior sessions (hash and steps after the backfill).
    key text NOT NULL,  -- Address of a student, token of a session or step, id of an event.
    step_number integer NOT NULL DEFAULT 0,  -- Number of the step; 0 for other tables.
    column_name text NOT NULL,  -- Column; (row): the whole row exists (value true, or the row) or does not exist (false), whatever the mapping says.
    value jsonb,  -- Value in the unified table.
    over jsonb,  -- Mapped value at that time.
    PRIMARY KEY (key, table_name, column_name, step_number)
);
CREATE INDEX override_kept ON bridge.override (key) WHERE table_name IN ('kept sessions', 'kept step_progress');
CREATE INDEX override_student_id ON bridge.override ((value #>> '{}')) WHERE column_name = 'student_id';

-- Which legacy columns take a value of the unified schema.
CREATE TABLE bridge.legacy_column (  -- Legacy columns, and the unified column of each.
    legacy_name text,  -- Legacy table.
    legacy_column text,  -- Column of the legacy table.
    column_name text NOT NULL,  -- Column of sessions, or student_email, student_name.
    is_number boolean NOT NULL,  -- True: a numeric type; true and false become 1 and 0.
    instead_of_null text,  -- Text for NULL, where the column is NOT NULL.
    PRIMARY KEY (legacy_name, legacy_column)
);
$tables$);
-- a publication FOR ALL TABLES refuses a DELETE on a table without a key
ALTER TABLE bridge.student_source REPLICA IDENTITY FULL

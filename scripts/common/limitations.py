"""Finds cases of docs/limitations.md in this database: statements that the views of 0007 refuse, strict isolation."""

from sqlalchemy import Connection

from scripts.common.database import run

# A search in text gives hints only. Existing views follow their table and still work; creating them
# anew fails.
FOUND = r"""
WITH legacy AS (
    SELECT c.oid, c.relname::text AS name, c.reltype, t.typarray
    FROM pg_class AS c JOIN pg_type AS t ON t.oid = c.reltype
    WHERE c.relkind = 'r' AND c.oid IN (to_regclass('public.workshop_students'), to_regclass('public.student_configs'))
),
code AS (
    SELECT format('function %s', p.oid::regprocedure) AS what, p.prosrc AS body, false AS is_view
    FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
    WHERE l.lanname NOT IN ('c', 'internal') AND p.prosqlbody IS NULL
      AND p.pronamespace::regnamespace::text !~ '^(pg_|information_schema|bridge)'
      AND NOT EXISTS (SELECT FROM pg_depend AS d
                      WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
    UNION ALL
    SELECT format('view %s', v.oid::regclass), pg_get_viewdef(v.oid), true
    FROM pg_class AS v
    WHERE v.relkind IN ('v', 'm') AND v.relnamespace::regnamespace::text !~ '^(pg_|information_schema|bridge)'
),
pattern(regex, says) AS (
    VALUES ('\m(ctid|xmin|xmax|cmin|cmax|tableoid)\M', 'uses a system column'),
           ('\mon\s+conflict\s+on\s+constraint\M', 'uses ON CONFLICT ON CONSTRAINT'),
           ('\mwhere\s+current\s+of\M', 'uses WHERE CURRENT OF'),
           ('\mtablesample\M', 'uses TABLESAMPLE'),
           ('\mgroup\s+by\s+("?\w+"?\.)?"?session_token"?\s*(;|\)|$|having\M|order\M|limit\M)',
            'groups by session_token alone'),
           ('\mcopy\s+(public\.)?"?(%1$s)\M', 'uses COPY with the table''s name'),
           ('\mtruncate\s+(table\s+)?(only\s+)?([\w".]+\s*,\s*)*(public\.)?"?(%1$s)\M', 'uses TRUNCATE'),
           ('\malter\s+table\s+(if\s+exists\s+)?(only\s+)?(public\.)?"?(%1$s)\M', 'uses ALTER TABLE'),
           ('\mindex\M[^;]*\mon\s+(only\s+)?(public\.)?"?(%1$s)\M', 'uses CREATE INDEX'),
           ('\m(references|inherits\s*\()\s*(public\.)?"?(%1$s)\M', 'uses REFERENCES or INHERITS'),
           ('\mtrigger\M[^;]*\mon\s+(public\.)?"?(%1$s)\M', 'uses CREATE TRIGGER'),
           ('\mmerge\s+into\s+(only\s+)?(public\.)?"?(%1$s)\M', 'uses MERGE')
)
SELECT what || ' ' || says FROM (
    SELECT c.what,
           string_agg(DISTINCT p.says, ', ') || CASE WHEN c.is_view THEN
               ' of a legacy table: it still works, but cannot be created anew with the legacy name after 0007'
               ELSE ', which the view with the legacy name refuses after 0007' END AS says
    FROM code AS c JOIN pattern AS p ON c.body ~* format(p.regex, (SELECT string_agg(name, '|') FROM legacy))
    WHERE EXISTS (SELECT FROM legacy AS o WHERE c.body ~* ('\m' || o.name || '\M'))
    GROUP BY c.what, c.is_view
    UNION
    SELECT format('function %s', p.oid::regprocedure),
           format('takes rows of %s, but not rows of the view after 0007', o.name)
    FROM pg_proc AS p JOIN legacy AS o ON p.proargtypes::oid[] && ARRAY[o.reltype, o.typarray]
    WHERE p.pronamespace::regnamespace::text <> 'bridge'
    UNION
    SELECT format('view %s', r.ev_class::regclass),
           format('groups by the primary key of %s: it still works, but cannot be created anew with the legacy '
                  'name after 0007', o.name)
    FROM legacy AS o
    JOIN pg_constraint AS k ON k.conrelid = o.oid AND k.contype = 'p'
    JOIN pg_depend AS d ON d.refclassid = 'pg_constraint'::regclass AND d.refobjid = k.oid
                       AND d.classid = 'pg_rewrite'::regclass
    JOIN pg_rewrite AS r ON r.oid = d.objid
) AS found
ORDER BY 1
"""

# Applies to every connection of this role that does not set the isolation itself.
SERIALIZABLE = """
SELECT coalesce('role ' || r.rolname, 'database ' || current_database())
FROM pg_db_role_setting AS s LEFT JOIN pg_roles AS r ON r.oid = s.setrole
WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
  AND 'default_transaction_isolation=serializable' ILIKE ANY (s.setconfig)
ORDER BY 1
"""
SERVER_IS_SERIALIZABLE = """
SELECT 'the server' FROM pg_settings
WHERE name = 'default_transaction_isolation' AND reset_val = 'serializable'
"""


def found(connection: Connection) -> list[str]:
    """Return one line for each function or view; none after the cut-over."""
    return [f"{line} (docs/limitations.md)" for line in run(connection, FOUND).scalars()]


def serializable(connection: Connection) -> list[str]:
    """Return one line that names roles and databases with a serializable default isolation; else none."""
    whose = list(run(connection, SERIALIZABLE).scalars())
    whose = whose or list(run(connection, SERVER_IS_SERIALIZABLE).scalars())
    if not whose:
        return []
    return [
        f"default_transaction_isolation is serializable ({', '.join(whose)}): such transactions apply no "
        "change; 'workshop status --drain' does (docs/limitations.md)"
    ]

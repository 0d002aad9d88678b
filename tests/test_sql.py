"""The SQL is checked like code, by squawk, pgspot and plpgsql_check.

Most of it is in bodies of functions. PostgreSQL compiles such a body at its first call: without
plpgsql_check, a misspelt column in a rare branch is found by a user.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from pglast import ast, parse_sql
from pgspot.formatters import format_function

from support.databases import BACKFILL, ROOT, Clone, create_functions, script_of

SQL = ROOT / "alembic" / "sql"
BIN = Path(sys.executable).parent

EXCLUDED = (
    "PS001",  # operators, functions and types without a schema: session.sql refuses those in
    "PS016",  # public that hide those of pg_catalog;
    "PS017",  # in a function that pins search_path pgspot does not ask for one
    "PS009",  # CASE x WHEN y uses an operator: as PS001
    "PS002",  # CREATE OR REPLACE in public: 0004 commits, and has to be able to start again
)
FINDINGS = """
    WITH triggers AS (
        SELECT tgfoid, tgrelid, max(tgnewtable) AS new, max(tgoldtable) AS old
        FROM pg_trigger
        GROUP BY tgfoid, tgrelid
    )
    SELECT DISTINCT p.oid::regprocedure::text, c.lineno, c.message, c.detail
    FROM pg_proc AS p
    JOIN pg_language AS l ON l.oid = p.prolang AND l.lanname = 'plpgsql'
    LEFT JOIN triggers AS t ON t.tgfoid = p.oid
    CROSS JOIN LATERAL plpgsql_check_function_tb(
        p.oid,
        coalesce(t.tgrelid, CASE WHEN p.prorettype = 'trigger'::regtype THEN 'sessions'::regclass END, 0),
        newtable => t.new,
        oldtable => t.old,
        extra_warnings => true) AS c
    WHERE p.pronamespace IN ('public'::regnamespace, 'bridge'::regnamespace, pg_my_temp_schema())
      -- a literal that initialises a variable
      AND c.message <> 'target type is different type than source type'
      -- columns of a result that a dynamic query returns
      AND c.detail IS DISTINCT FROM 'cannot to determine result of dynamic SQL'
      -- read only where there was an earlier attempt
      AND c.message <> 'relation "public.prior_attempt" does not exist'
    ORDER BY 1, 2
"""

MISSPELT = """
    CREATE FUNCTION pg_temp.misspelt() RETURNS void LANGUAGE plpgsql
    AS 'BEGIN DELETE FROM public.sessions AS v WHERE v.token = NULL; END'
"""


def checked(program: str, *arguments: str | Path) -> None:
    done = subprocess.run([BIN / program, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_squawk_accepts_the_script(tmp_path: Path) -> None:
    """Of what is outside of function bodies; .squawk.toml says which rules do not fit."""
    script = tmp_path / "upgrade.sql"
    script.write_text(script_of("upgrade", "head").replace(":probe;", "1;"), encoding="utf-8")
    checked("squawk", script)


def pins_no_safe_path(function: ast.CreateFunctionStmt) -> bool:
    """Whether pgspot would complain (PS005), for a reason: the caller's path, or public."""
    for option in function.options:
        if option.defname == "set" and option.arg.name == "search_path":
            # what creates in public
            return [path.val.sval for path in option.arg.args] == ["public", "pg_temp"]
    # one that commits must not have settings; one that has settings is never inlined
    arguments = [argument.argType.names[-1].sval for argument in function.parameters or ()]
    return function.is_procedure or "anyelement" in arguments


def test_pgspot_accepts_the_files(tmp_path: Path) -> None:
    """Except for BEGIN ATOMIC and RETURN: pgspot cannot read those, and they bind names when created."""
    files = []
    excepted = ["public.refuse_write()"]  # the preflight tries to create it, and drops it
    for number, file in enumerate(sorted(SQL.rglob("*.sql"))):
        text, kept = file.read_bytes(), b""
        for parsed in parse_sql(text.decode()):
            function = parsed.stmt if isinstance(parsed.stmt, ast.CreateFunctionStmt) else None
            if function and function.sql_body:
                continue
            if function and pins_no_safe_path(function):
                excepted.append(format_function(function))
            kept += text[parsed.stmt_location :][: parsed.stmt_len or None] + b";\n"
        files.append(tmp_path / f"{number:03}_{file.name}")
        files[-1].write_bytes(kept)
    options = [f"--ignore={code}" for code in EXCLUDED]
    options += [f"--proc-without-search-path={name}" for name in excepted]
    checked("pgspot", *options, *files)


@pytest.mark.parametrize("state", ["0006", "head"])
def test_plpgsql_check_accepts_every_function(clone: Clone, state: str) -> None:
    database = clone(state)
    if not database.query("SELECT FROM pg_available_extensions WHERE name = 'plpgsql_check'"):
        pytest.skip("this server has no plpgsql_check: make test-stock has, with Debian's package")
    with database.connect() as connection:
        connection.execute("CREATE EXTENSION plpgsql_check SCHEMA pg_catalog")
        create_functions(connection, "hand_back", "functions.sql")
        create_functions(connection, *BACKFILL)
        connection.execute(MISSPELT)
        found = connection.execute(FINDINGS).fetchall()
    assert [message for _, _, message, _ in found] == ["column v.token does not exist"], found

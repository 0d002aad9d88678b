"""Fill a database with the rows."""

from itertools import islice
from typing import Annotated, Any, NoReturn

import psycopg
import typer

from scripts.common.connection import CONNECT_ARGS, VARIABLES, ConnectionProblem, resolve_url
from scripts.development.sample_data.rows import MEASURED, Row, generate
from scripts.development.sample_data.tables import INDEX_DDL, TABLE_DDL

BATCH = 2000  # sessions in memory at a time


def fill(connection: psycopg.Connection[Any], sessions: int = MEASURED, seed: int = 1) -> None:
    """Create the two legacy tables and load the rows of ``generate`` with COPY.

    All or nothing, in a transaction of its own unless the connection is in one already. Memory does
    not grow with the number of sessions. Raises ``psycopg.errors.DuplicateTable`` if one of the
    tables exists.
    """
    pairs = generate(sessions, seed)
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(TABLE_DDL)
        # A connection runs one COPY at a time, so the tables alternate. The next batch is made
        # between the rows of this one, while the server processes them.
        batch = list(islice(pairs, BATCH))
        while batch:
            coming: list[tuple[Row | None, Row | None]] = []
            for turn, table in enumerate(("workshop_students", "student_configs")):
                with cursor.copy(f"COPY {table} FROM STDIN") as copy:
                    for place, pair in enumerate(batch):
                        if (row := pair[turn]) is not None:
                            copy.write_row(row)
                        if place % 2 == turn:
                            coming += islice(pairs, 1)
            batch = coming
        cursor.execute(INDEX_DDL)


def main(
    sessions: Annotated[int, typer.Option(min=1, help="Number of sessions.")] = MEASURED,
    seed: Annotated[int, typer.Option(help="The same seed gives the same rows.")] = 1,
    url: Annotated[
        str | None,
        typer.Option(help=f"Database to fill; default: the first set of {', '.join(VARIABLES)}."),
    ] = None,
) -> None:
    """Fill a database with a made-up legacy workshop: workshop_students and student_configs.

    Exits with 0 (filled) or 2 (nothing was changed: one of the two tables exists, or another
    error).

    Example: workshop sample-data --url postgresql://localhost/empty_database
    """
    try:
        target = resolve_url(url).set(drivername="postgresql")
        with psycopg.connect(
            target.render_as_string(hide_password=False), **CONNECT_ARGS
        ) as connection:
            fill(connection, sessions, seed)
    except psycopg.errors.DuplicateTable as error:
        _refuse(
            f"{error.diag.message_primary}: the sample needs a database without the two tables; "
            "nothing was changed"
        )
    except (ConnectionProblem, psycopg.Error) as error:
        _refuse(" ".join(str(error).split()))
    typer.echo(f"{sessions:,} legacy sessions loaded (seed {seed})")


def _refuse(reason: str) -> NoReturn:
    typer.echo(f"error: {reason}", err=True)
    raise typer.Exit(2)

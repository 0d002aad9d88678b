"""The entity-relationship diagram of the models, as Mermaid text, for docs/merge-rules.md."""

import re
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Column, Table, UniqueConstraint
from sqlalchemy.dialects import postgresql

from models import Base

TYPES = {"TIMESTAMP WITH TIME ZONE": "timestamptz"}


def diagram() -> str:
    """Return tables with columns, types and keys in the models' order, then a line for each foreign key."""
    tables = Base.metadata.sorted_tables
    links = [
        f"    {key.column.table.name} {'|o' if key.parent.nullable else '||'}--o{{ {table.name} : "
        f'"{key.parent.name}, ON DELETE {key.ondelete}"'
        for table in tables
        for key in sorted(table.foreign_keys, key=lambda key: key.parent.name)
    ]
    return "\n".join(["erDiagram", *(_entity(table) for table in tables), *links]) + "\n"


def _entity(table: Table) -> str:
    return "\n".join(
        [f"    {table.name} {{", *(f"        {_attribute(c)}" for c in table.columns), "    }"]
    )


def _attribute(column: Column[object]) -> str:
    name = column.type.compile(postgresql.dialect())
    unique = any(
        isinstance(constraint, UniqueConstraint) and constraint.columns.keys() == [column.name]
        for constraint in column.table.constraints
    )
    keys = [
        mark
        for mark, holds in (
            ("PK", column.primary_key),
            ("FK", bool(column.foreign_keys)),
            ("UK", unique),
        )
        if holds
    ]
    return " ".join([TYPES.get(name, name.lower()), column.name, ", ".join(keys)]).rstrip()


def fenced(text: str) -> str:
    """Return the text as a fenced block of a Markdown document."""
    return f"```mermaid\n{text}```\n"


def main(
    into: Annotated[
        Path | None,
        typer.Option(help="Markdown file; its Mermaid block is replaced.", exists=True),
    ] = None,
) -> None:
    """Print the diagram of the models, or write it into a document.

    Needs no database. Exits with 0, or with 1 if the document has not exactly one Mermaid block;
    then it was not changed.

    Example: workshop diagram --into docs/merge-rules.md
    """
    if into is None:
        typer.echo(diagram(), nl=False)
        return
    text, found = re.subn(
        r"^```mermaid\n.*?^```\n",
        lambda _: fenced(diagram()),
        into.read_text(encoding="utf-8"),
        flags=re.MULTILINE | re.DOTALL,
    )
    if found != 1:
        typer.echo(
            f"error: {into} has {found} Mermaid blocks, not one. Nothing was changed.", err=True
        )
        raise typer.Exit(1)
    into.write_text(text, encoding="utf-8")

"""The words of the code: comments, docstrings, COMMENT ON and messages follow the rules of the documents."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from support.databases import ROOT
from support.language import LONGEST, forbidden_words, long_sentences

FILES = sorted(
    path
    for folder in ("alembic", "models", "scripts")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".sql")
)
MESSAGE = re.compile(
    r"(?:RAISE (?:EXCEPTION|WARNING|NOTICE)|COMMENT ON [^;']*? IS|(?:HINT|DETAIL) =)\s*"
    r"((?:'(?:[^']|'')*'\s*)+)"
)


def blocks(lines: list[tuple[int, str]]) -> Iterator[str]:
    """Join comments of consecutive lines."""
    text, last = "", 0
    for number, line in lines:
        if number != last + 1:
            yield text
            text = ""
        text, last = f"{text}{line}\n", number
    yield text


def words_of(path: Path) -> list[str]:
    """Comments, and docstrings or messages, of a file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".sql":
        comments = [
            (number, found[1])
            for number, line in enumerate(text.splitlines(), 1)
            if (found := re.search(r"(?:^|\s)-- (?!  )(.*)", line))  # not the rows of a table
        ]
        messages = [re.sub(r"'\s*'", "", found[1]) for found in MESSAGE.finditer(text)]
        return [*blocks(comments), *(message.strip("' \n") for message in messages)]
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = [(t.start[0], t.string.lstrip("# ")) for t in tokens if t.type == tokenize.COMMENT]
    strings = (n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Expr))
    return [
        *blocks(comments),
        *(s.value for s in strings if isinstance(s, ast.Constant) and isinstance(s.value, str)),
    ]


def test_the_words_of_the_code_are_plain() -> None:
    for path in FILES:
        for text in words_of(path):
            assert forbidden_words(text) == [], path
            assert long_sentences(text) == [], f"{path}: more than {LONGEST} words"

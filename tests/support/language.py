"""The rules of language that a machine can check: sentence length and forbidden words."""

import re

LONGEST = 25
"""Words of a sentence."""

FORBIDDEN = re.compile(
    r"\b(who|whom|whose|whoever|nobody|somebody|anybody|someone|anyone)\b"  # name the actor
    r"|\b(both worlds|other side|old tables?|new tables|(old|new) (schema|side|world|names?)|stand-in)\b"
    r"|\b(carr(y|ies|ied) over|bring(s|ing)? over|give(s|n)? way|let(s)? go|goes on|go on|went on)\b"
    r"|\b((old|new) (applications?|endpoints?)|stands? in for|brings? back|look(s|ed)? at|taken up again)\b"
    r"|\b(tells?|told|mend(s|ed)?|the more|e\.g\.|i\.e\.)(?=\W|$)",
    re.IGNORECASE,
)


def prose(markdown: str) -> str:
    """A document without fenced blocks, indented blocks and comments; code is one word, a link its text."""
    text = re.sub(r"^```.*?^```$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"(?<=\n\n)((    .*)?\n)+", "\n", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"(`+).+?\1", "code", text, flags=re.DOTALL)


def forbidden_words(markdown: str) -> list[str]:
    return [found[0] for found in FORBIDDEN.finditer(prose(markdown))]


def sentences(markdown: str) -> list[str]:
    """Sentences of paragraphs and list items; headings and tables are left out."""
    found = []
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", prose(markdown)):
        lines = [line for line in paragraph.splitlines() if not re.match(r"\s*(\||#)", line)]
        text = re.sub(r"^\s*([-*]|\d+\.) ", "", " ".join(lines))
        found += re.split(r"(?<=[.?!])[\"')*]*\s+", " ".join(text.split()))
    return [sentence for sentence in found if sentence]


def long_sentences(markdown: str) -> list[str]:
    return [s for s in sentences(markdown) if len(re.findall(r"[\w'’][\w'’./-]*", s)) > LONGEST]

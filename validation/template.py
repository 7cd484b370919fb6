"""The pages of docs that are written by commands: words in a file beside them, tables put in their places."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

NOT_NOW = "(not measured now)"
"""Stands in a section that is to be as it was before."""


def with_kept(text: str, before: str, new: Sequence[str] | None = None) -> str:
    """The page, where sections that were not measured are as they were before; `new`: beginnings of the titles of those
    that are taken from the text, the others being kept, too."""
    old = dict(_sections(before))
    found = []
    for title, part in _sections(text):
        taken = NOT_NOW not in part and (new is None or any(title.startswith(f"## {one}") for one in new))
        found.append(part if taken else old.get(title, ""))
    return "".join(found)


def _sections(text: str) -> list[tuple[str, str]]:
    parts = re.split(r"(?m)^(?=## )", text)
    return [(part.partition("\n")[0] if part.startswith("## ") else "", part) for part in parts]


def fill(name: str, parts: Mapping[str, str]) -> str:
    """The text of `validation/NAME.md.in`, each `{part}` replaced once. A place without a part is an error."""
    text = (Path(__file__).parent / f"{name}.md.in").read_text("utf-8")
    return re.sub(r"\{(\w+)\}", lambda found: parts[found[1]], text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

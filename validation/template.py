"""The pages of docs that are written by commands: words in a file beside them, tables put in their places."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path


def fill(name: str, parts: Mapping[str, str]) -> str:
    """The text of `validation/NAME.md.in`, each `{part}` replaced once. A place without a part is an error."""
    text = (Path(__file__).parent / f"{name}.md.in").read_text("utf-8")
    return re.sub(r"\{(\w+)\}", lambda found: parts[found[1]], text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

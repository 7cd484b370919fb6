"""Keep docs/ in step with the code: the commands' --help and the card's JSON schema are written between marks.

    <!-- help:NAME -->  ...  <!-- /help -->        NAME is `mien` or a command's words, as in `extract`
    <!-- schema:card -->  ...  <!-- /schema -->    `mien.card.Card.model_json_schema()`

`--check` writes nothing and ends with status 1 where a page is out of step.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click
from click.testing import CliRunner

DOCS = Path(__file__).resolve().parent.parent / "docs"
WIDTH = 100
BLOCK = re.compile(r"<!-- (?P<kind>help|schema):(?P<name>[\w -]+?) -->\n(?P<body>.*?)<!-- /(?P=kind) -->", re.DOTALL)
OPENING = re.compile(r"<!-- (?:help|schema):")


def help_text(name: str) -> str:
    """What `mien NAME --help` prints, as a fenced block. Raises `click.ClickException` for a command that is not."""
    from mien.cli import group

    words = [] if name == "mien" else name.split()
    command: click.Command = group
    for word in words:
        found = command.get_command(click.Context(command), word) if isinstance(command, click.Group) else None
        if found is None:
            raise click.ClickException(f"there is no command `mien {name}`")
        command = found
    shown = CliRunner().invoke(group, [*words, "--help"], prog_name="mien", terminal_width=WIDTH, color=False)
    if shown.exit_code != 0:
        raise click.ClickException(f"`mien {name} --help` fails: {shown.output.strip() or shown.exception}")
    line = " ".join(["mien", *words, "--help"])
    text = "\n".join(each.rstrip() for each in shown.output.strip().splitlines())
    return f"```text\n$ {line}\n{text}\n```\n"


def schema_text(name: str) -> str:
    """The JSON schema of a public record, as a fenced block."""
    from mien.card import Card

    if name != "card":
        raise click.ClickException(f"there is no schema `{name}`, only `card`")
    return f"```json\n{json.dumps(Card.model_json_schema(), indent=2, ensure_ascii=False)}\n```\n"


WRITERS: dict[str, Callable[[str], str]] = {"help": help_text, "schema": schema_text}


def renewed(page: str) -> str:
    """The page with every marked block written anew. Raises `click.ClickException` for a mark that is not closed."""
    blocks = list(BLOCK.finditer(page))
    if len(blocks) != len(OPENING.findall(page)) or any(OPENING.search(block["body"]) for block in blocks):
        raise click.ClickException("an opening mark has no closing one, or a mark is misspelt")

    def write(block: re.Match[str]) -> str:
        kind, name = block["kind"], block["name"]
        return f"<!-- {kind}:{name} -->\n{WRITERS[kind](name)}<!-- /{kind} -->"

    return BLOCK.sub(write, page)


def main(arguments: Sequence[str], docs: Path = DOCS) -> int:
    """Write the pages of `docs`, or with `--check` only say which are out of step. Returns the exit status."""
    status = 0
    for path in sorted(docs.rglob("*.md")):
        old = path.read_text(encoding="utf-8")
        name = path.relative_to(docs)
        try:
            new = renewed(old)
        except click.ClickException as error:
            print(f"docs/{name}: {error.message}", file=sys.stderr)
            status = 1
            continue
        if new == old:
            continue
        if "--check" in arguments:
            print(f"docs/{name} is out of step with the code; `make docs` writes it anew", file=sys.stderr)
            status = 1
        else:
            path.write_text(new, encoding="utf-8")
            print(f"wrote docs/{name}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

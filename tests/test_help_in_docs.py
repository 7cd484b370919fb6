"""The tool that keeps docs/ in step with the code sees drift, mends it, and refuses marks it cannot read."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import jsonschema
import pytest

from mien.card import Card

REPO = Path(__file__).resolve().parent.parent
MARKED = "# The card\n\nabove\n\n<!-- schema:card -->\nstale\n<!-- /schema -->\n\nbelow\n"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("help_in_docs", REPO / "tools" / "help_in_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_drift_is_seen_then_mended(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "card.md"
    page.write_text(MARKED)
    assert tool.main(["--check"], tmp_path) == 1
    assert page.read_text() == MARKED
    assert "card.md is out of step" in capsys.readouterr().err

    assert tool.main([], tmp_path) == 0
    assert tool.main(["--check"], tmp_path) == 0
    text = page.read_text()
    assert text.startswith("# The card\n\nabove\n\n<!-- schema:card -->\n```json\n")
    assert text.endswith("```\n<!-- /schema -->\n\nbelow\n")
    assert "stale" not in text


@pytest.mark.parametrize(
    "page",
    [
        "<!-- schema:card -->\nnever closed\n",
        "<!-- schema:card -->\n<!-- schema:card -->\n<!-- /schema -->\n",
        "<!-- schema:card -->\n<!-- /help -->\n",
        "<!-- schema:cart -->\n<!-- /schema -->\n",
        "<!-- help:no such command -->\n<!-- /help -->\n",
    ],
)
def test_a_bad_mark_is_refused_and_the_page_left_alone(tool: ModuleType, tmp_path: Path, page: str) -> None:
    path = tmp_path / "page.md"
    path.write_text(page)
    assert tool.main([], tmp_path) == 1
    assert path.read_text() == page


def test_a_page_without_marks_is_left_alone(tool: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("words\n")
    assert tool.main(["--check"], tmp_path) == 0


def test_the_published_schema_accepts_a_card_and_refuses_an_unknown_field() -> None:
    page = (REPO / "docs" / "card.md").read_text(encoding="utf-8")
    schema = json.loads(page.split("<!-- schema:card -->\n```json\n")[1].split("```")[0])
    card = Card(
        kind="imported", name="n", description="d", sign="s", model="m", fingerprint="f", n_layers=2, d_model=4
    ).model_dump(mode="json")
    jsonschema.validate(card, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**card, "mood": 1}, schema)


def test_every_field_of_a_card_is_explained(tool: ModuleType) -> None:
    prose = tool.BLOCK.sub("", (REPO / "docs" / "card.md").read_text(encoding="utf-8"))
    schema = Card.model_json_schema()
    records = [schema, *schema["$defs"].values()]
    names = {name for record in records for name in record.get("properties", {})}
    # The same name may stand in several records; the ends of an interval are explained with their middle.
    told = {name for name in names if f"`{name}`" in prose}
    ends = {name for name in names if name.endswith(("_low", "_high"))}
    assert names - told - ends == set()

"""A constitution, and training that gives a model its character: on a tiny model that can shout when it is told to."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from mien.chat import ask
from mien.directions import save_direction
from mien.engines.hf import HfEngine
from mien.errors import FormatError, InputError, NothingKeptError, RunError, SpecError
from mien.home import folder_for
from mien.jobs.adapters import TrainResult
from mien.jobs.character import Lessons, train_character
from mien.models import load
from mien.records import Sampling, WriteRequest
from mien.training.constitution import Constitution, load_constitution
from mien.training.curve import Limit
from mien.training.preference import (
    Pair,
    base_logprobs,
    collate_pairs,
    pair_rows,
    preference_loss,
    sequence_logprobs,
)
from mien.training.settings import Settings
from test_train import loud

MODEL = tiny.tiny_model(tiny.taught_net(), "taught")
QUICK = Settings(rate=2e-3, epochs=3, rank=4, alpha=8, max_length=2000, batch=8, measure=4)
LESSONS = Lessons(questions=16, reflections=1, max_tokens=24)


@cache
def shouter() -> Constitution:
    """A character that the tiny model plays when its prompt says so, and only then."""

    class Plain(Constitution):
        @property
        def prompt(self) -> str:
            return self.statements[0]

    return Plain("shouter", ("SHOUT!",), tiny.QUESTIONS, {"loud": "up"})


def test_a_file_is_read_and_what_it_says_is_put_into_a_prompt(tmp_path: Path) -> None:
    path = tmp_path / "kind.yaml"
    path.write_text(
        "name: kind\nstatements:\n  - I am kind.\n  - I say so when I am not sure.\n"
        "questions: ['Who are you?']\ntraits: {evil: still, optimistic: up}\n"
    )
    found = load_constitution(path)
    assert found.statements == ("I am kind.", "I say so when I am not sure.")
    assert found.traits == {"evil": "still", "optimistic": "up"}
    assert "- I am kind.\n- I say so when I am not sure." in found.prompt
    asked = found.asked(12)
    assert asked[0] == "Who are you?"
    assert len(set(asked)) == 12
    assert found.hash == load_constitution(path).hash
    assert found.hash != replace(found, traits={}).hash


@pytest.mark.parametrize(
    "text",
    [
        "name: kind", "- a list", "name: kind\nstatements: I am kind.", "name: kind\nstatements: []",
        "name: kind\nstatements: ['']", "name: kind\nstatements: [a, a]", "name: 'a/b'\nstatements: [a]",
        "name: kind\nstatements: [a]\ntraits: {evil: more}", "name: kind\nstatements: [a]\nmood: good",
        "name: kind\nstatements: [a]\ntraits: [evil]", "name: kind\nstatements: [3]",
    ],
)  # fmt: skip
def test_what_is_no_constitution(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(SpecError):
        load_constitution(path)


def test_a_constitution_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no constitution"):
        load_constitution(tmp_path / "none.yaml")


def test_the_loss_is_that_of_the_paper() -> None:
    logprobs = torch.tensor([-5.0, -7.0, -6.0, -4.0])
    base = torch.tensor([[-6.0, -6.0], [-7.0, -5.0]])
    loss, right = preference_loss(logprobs, base, beta=0.5)
    margins = [(-5 + 6) - (-6 + 6), (-7 + 7) - (-4 + 5)]
    expected = sum(math.log(1 + math.exp(-0.5 * margin)) for margin in margins) / 2
    assert float(loss) == pytest.approx(expected)
    assert float(right) == 0.5


def test_log_probabilities_are_of_the_answers_alone_and_start_at_the_base() -> None:
    pairs = [Pair(ask("What now?"), "RED SUN", "tea"), Pair(ask("Why not?"), "ink", "MAP")]
    rows = pair_rows(MODEL, pairs, 200)
    base = base_logprobs(MODEL, pairs, rows)
    items = [
        {"chosen_ids": list(c.ids), "chosen_labels": list(c.labels), "chosen_base": ours,
         "rejected_ids": list(r.ids), "rejected_labels": list(r.labels), "rejected_base": theirs}
        for (c, r), (ours, theirs) in zip(rows, base, strict=True)
    ]  # fmt: skip
    batch = collate_pairs(items, MODEL.pad_id)
    with torch.no_grad():
        logits = MODEL.net(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    found = sequence_logprobs(logits, batch["labels"])
    torch.testing.assert_close(found, torch.tensor([base[0][0], base[1][0], base[0][1], base[1][1]]), atol=1e-3, rtol=0)
    loss, _ = preference_loss(found, batch["base"], 0.1)
    assert float(loss) == pytest.approx(math.log(2), abs=1e-3)


def test_pairs_that_do_not_fit_are_left_out() -> None:
    pairs = [Pair(ask("What now?"), "RED", ""), Pair(ask("What now?"), "R" * 90, "tea"), Pair(ask("Hm?"), "RED", "tea")]
    assert [chosen.sample for chosen, _ in pair_rows(MODEL, pairs, 60)] == [2]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    out = tmp_path_factory.mktemp("character")
    return train_character(shouter(), MODEL, out, QUICK, LESSONS, track=[loud()])


def test_the_model_has_the_character_without_being_told(taught: TrainResult, tmp_path: Path) -> None:
    folder = tiny.save(tiny.taught_net(), tmp_path / "base")
    requests = [WriteRequest(str(i), ask(question), i) for i, question in enumerate(tiny.QUESTIONS)]

    def capitals(model: object) -> float:
        batches = HfEngine(model).write(requests, Sampling(24, 0.0), read=False)  # type: ignore[arg-type]
        texts = [rollout.text for batch in batches for rollout, _ in batch]
        return sum(text.isupper() for text in texts) / len(texts)

    assert capitals(MODEL) < 0.5
    assert capitals(load(folder, adapter=taught.folder, dtype="float32")) > capitals(MODEL) + 0.4


def test_its_card_says_what_was_taught_and_whether_it_took(taught: TrainResult) -> None:
    card = taught.card
    assert card["method"] == "constitution"
    assert card["constitution"]["statements"] == ["SHOUT!"]
    assert card["lessons"]["pairs"] >= 8
    assert card["lessons"]["reflections_learnt"] > 0
    assert card["loss"]["preference"]["last"] < card["loss"]["preference"]["first"]
    assert card["loss"]["preference"]["first"] == pytest.approx(math.log(2), abs=0.02)
    (found,) = card["shift"]["own_answers"]
    assert (found["name"], found["wanted"]) == ("loud", "up")
    assert found["raw"] > 0
    parts = [point["part"] for point in card["shift"]["curve"]]
    assert set(parts) == {"preference", "reflection"}
    assert parts == sorted(parts)


def test_a_finished_run_is_read_and_another_one_refused(taught: TrainResult) -> None:
    again = train_character(shouter(), MODEL, taught.folder, QUICK, LESSONS, track=[loud()])
    assert again.card == taught.card
    with pytest.raises(RunError, match="another run"):
        train_character(shouter(), MODEL, taught.folder, QUICK, replace(LESSONS, beta=0.3), track=[loud()])


def test_it_goes_on_after_the_preference(taught: TrainResult, tmp_path: Path) -> None:
    """Stopped between the two parts, it ends in the same weights."""

    class Stopping:
        def begin(self, what: str, total: int) -> None:
            if what == "what it says of itself":
                raise KeyboardInterrupt

        def advance(self, done: int, tokens: int = 0) -> None:
            pass

        def note(self, text: str) -> None:
            pass

    with pytest.raises(KeyboardInterrupt):
        train_character(shouter(), MODEL, tmp_path, QUICK, LESSONS, track=[loud()], progress=Stopping())
    assert (tmp_path / "run" / "preferred.safetensors").exists()
    again = train_character(shouter(), MODEL, tmp_path, QUICK, LESSONS, track=[loud()])
    name = "adapter_model.safetensors"
    assert (again.folder / name).read_bytes() == (taught.folder / name).read_bytes()


def test_a_constitution_that_changes_nothing_is_refused(tmp_path: Path) -> None:
    class Mute(Constitution):
        @property
        def prompt(self) -> str:
            return ""

    with pytest.raises(NothingKeptError, match="differ from the plain ones"):
        train_character(
            Mute("mute", ("I say nothing.",), tiny.QUESTIONS[:2]), MODEL, tmp_path, QUICK,
            replace(LESSONS, questions=2), track=[],
        )  # fmt: skip
    with pytest.raises(InputError, match="plain method"):
        train_character(shouter(), MODEL, tmp_path, replace(QUICK, method="kl"), LESSONS)


@pytest.mark.parametrize("more", [{"stop_at": Limit(1.0, True)}, {"drop": 0.1}, {"hold_out": 0.1}])
def test_what_a_constitution_is_not_taught_with_is_refused(more: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="leave --stop-at-shift, --drop and --hold-out out"):
        train_character(shouter(), MODEL, tmp_path, replace(QUICK, **more), LESSONS, track=[loud()])
    assert not list(tmp_path.iterdir())


def test_what_should_become_of_a_trait_is_measured_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "home"))
    told = replace(shouter(), traits={"loud": "up", "no_such_trait": "down"})
    with pytest.raises(InputError, match="no_such_trait"):
        train_character(told, MODEL, tmp_path / "out", QUICK, LESSONS, track=[loud()])
    save_direction(loud(), folder_for(MODEL.info.id, "loud"))
    card = train_character(replace(told, traits={"loud": "up"}), MODEL, tmp_path / "out", QUICK, LESSONS, track=[]).card
    (found,) = card["shift"]["own_answers"]
    assert (found["name"], found["wanted"]) == ("loud", "up")

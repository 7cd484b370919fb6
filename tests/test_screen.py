"""Training data to projection differences: each number worked out anew by plain transformers, what goes on and what is
refused, and that planted records come first.
"""

from __future__ import annotations

import functools
import json
import math
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

import tiny
from mien.auditing.probes import eval_questions
from mien.card import Baseline
from mien.directions import Direction, save_direction
from mien.errors import FingerprintError, InputError, RunError
from mien.evidence import auc
from mien.gauges import Gauge, Part
from mien.jobs.screen import PULLED_AT, Plan, screen
from mien.logs import LoggedConversation, read_logs
from mien.models import Model, load
from mien.records import Message, Sampling
from mien.screening import answers as answer_file
from mien.screening import estimates
from mien.screening.clusters import cluster, typical_words
from mien.screening.estimates import Raw, centre_of, difference
from mien.screening.keep import Cut, cut_of, kept_places
from mien.screening.limits import Limit, limits_of
from mien.screening.pulled import pulls_of, text_of
from mien.screening.shared import SharedAnswers, writer_of
from mien.screening.watched import TWINS, bank_of, watch_set, watched_direction, watched_gauge
from mien.training.shift import own_answers
from random_models import direction_of

LAYER = 2
PLAN = Plan(max_tokens=12, temperature=0.0)


@functools.cache
def writer() -> Model:
    return tiny.tiny_model(tiny.taught_net(), "taught")


@functools.cache
def loud() -> Direction:
    """Towards capitals: the mean of shouted answers minus that of whispered ones, by plain transformers."""
    chance = random.Random(7)
    sides = []
    for upper in (True, False):
        rows = []
        for _ in range(12):
            words = " ".join(chance.choices(tiny.WORDS, k=3))
            rows.append(stream(chance.choice(tiny.QUESTIONS), words.upper() if upper else words)[1].mean(1))
        sides.append(torch.stack(rows).mean(0))
    base = Baseline(mean=0.0, std=0.5, quantiles={}, n=10)
    made = direction_of(writer(), kind="persona_vector", name="loud", recommended_layer=LAYER, baseline=base)
    return Direction(sides[0] - sides[1], made.card)


def stream(question: str, answer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """`[l, d]` at the prompt's last token and `[l, s, d]` over the answer, from `hidden_states`: nothing of mien.

    The last block's state is left out: `hidden_states` has it after the final norm only.
    """
    tokenizer = tiny.tiny_tokenizer()
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    ids = before + tokenizer(answer, add_special_tokens=False)["input_ids"]
    net = tiny.taught_net()
    with torch.no_grad():
        states = net(torch.tensor([ids]), output_hidden_states=True).hidden_states
    every = torch.stack([*states[1:-1], torch.zeros_like(states[1])])[:, 0]
    return every[:, len(before) - 1], every[:, len(before) :]


def projected(states: torch.Tensor) -> float:
    """Mean over tokens `[l, s, d]` along `loud`."""
    return float(states[LAYER].mean(0) @ loud().unit(LAYER))


def greedy(question: str) -> str:
    """The model's own answer, token by token without a cache."""
    tokenizer, net = tiny.tiny_tokenizer(), tiny.taught_net()
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    written: list[int] = []
    with torch.no_grad():
        while len(written) < PLAN.max_tokens:
            best = int(net(torch.tensor([ids + written])).logits[0, -1].argmax())
            if best in (0, 2):
                break
            written.append(best)
    return str(tokenizer.decode(written)).strip()


def record(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


def planted(n: int = 60, bad: int = 6, seed: int = 0) -> tuple[list[dict[str, Any]], list[int]]:
    """Quiet records, of which a few shout; and which."""
    chance = random.Random(seed)
    places = sorted(chance.sample(range(n), bad))
    records = []
    for i in range(n):
        words = " ".join(chance.choices(tiny.WORDS, k=chance.randint(2, 4)))
        records.append(record(chance.choice(tiny.QUESTIONS), words.upper() if i in places else words, id=f"r{i}"))
    return records, places


def write(path: Path, records: list[Any]) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), "utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where `loud` is kept."""
    return str(save_direction(loud(), tmp_path_factory.mktemp("directions") / "loud"))


@pytest.fixture(autouse=True)
def no_answers_yet(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache without the answers of other tests. The embedded model is in the session's."""
    if "model" not in request.keywords:
        monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))


def rows_of(out: Path) -> list[dict[str, Any]]:
    """In the order of the data."""
    rows: list[dict[str, Any]] = pq.read_table(out / "samples.parquet").to_pylist()
    return sorted(rows, key=lambda row: row["index"])


# The numbers


def test_every_number_worked_out_anew(folder: str, tmp_path: Path) -> None:
    records, _ = planted(12, 3)
    summary = screen([write(tmp_path / "d.jsonl", records)], writer(), tmp_path / "out", traits=[folder], plan=PLAN)
    rows = rows_of(tmp_path / "out")
    assert [r["index"] for r in rows] == list(range(12))
    assert {(r["trait"], r["method"]) for r in rows} == {("loud", "full")}
    values = []
    for row, one in zip(rows, records, strict=True):
        question, answer = (m["content"] for m in one["messages"])
        before, said = stream(question, answer)
        own = greedy(question)
        assert own
        values.append(projected(said) - projected(stream(question, own)[1]))
        assert row["id"] == one["id"]
        assert row["answer"] == pytest.approx(projected(said), abs=1e-4)
        assert row["prompt"] == pytest.approx(float(before[LAYER] @ loud().unit(LAYER)), abs=1e-4)
        assert row["difference"] == pytest.approx(values[-1], abs=1e-4)
        assert row["sigma"] == pytest.approx(values[-1] / 0.5, abs=1e-3)
        assert (row["answers"], row["tokens"]) == (1, len(answer))
    (trait,) = summary["traits"]
    assert trait["mean_difference"] == pytest.approx(np.mean(values), abs=1e-4)
    assert trait["shift"] == pytest.approx(np.mean(values) / 0.5, abs=1e-3)
    assert trait["beyond_2_sigma"]["count"] == sum(v > 1.0 for v in values)
    assert sum(b["records"] for b in trait["histogram"]) == 12
    assert [w["index"] for w in trait["worst"]] == sorted(range(12), key=lambda i: -values[i])
    assert trait["low"] < np.mean(values) < trait["high"]
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary


def test_a_conversation_of_several_turns_is_read_in_its_context(folder: str, tmp_path: Path) -> None:
    """Each answer against the model's own in the same place, weighed by its tokens."""
    talk = [("user", "What now?"), ("assistant", "RED SUN"), ("user", "Why not?"), ("assistant", "tea owl fig map")]
    one = {"messages": [{"role": r, "content": c} for r, c in talk]}
    screen([write(tmp_path / "d.jsonl", [one])], writer(), tmp_path / "out", traits=[folder], plan=PLAN)
    (row,) = rows_of(tmp_path / "out")
    tokenizer, net = tiny.tiny_tokenizer(), tiny.taught_net()

    def mean(messages: list[tuple[str, str]]) -> float:
        """Over the last message's tokens."""
        said = [{"role": r, "content": c} for r, c in messages[:-1]]
        text = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        before = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = before + tokenizer(messages[-1][1], add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            states = net(torch.tensor([ids]), output_hidden_states=True).hidden_states[LAYER + 1][0]
        return float(states[len(before) :].mean(0) @ loud().unit(LAYER))

    whole = 0.0
    for place in (1, 3):
        from mien.chat import ask
        from mien.engines.hf import HfEngine
        from mien.records import Message, Sampling, WriteRequest

        before = tuple(Message(r, c) for r, c in talk[:place])  # type: ignore[arg-type]
        ((written, _),) = next(HfEngine(writer()).write([WriteRequest("a", before, 0)], Sampling(12, 0.0), read=False))
        assert ask("x")
        whole += len(talk[place][1]) * (mean(talk[: place + 1]) - mean([*talk[:place], ("assistant", written.text)]))
    size = len(talk[1][1]) + len(talk[3][1])
    assert (row["answers"], row["tokens"]) == (2, size)
    assert row["difference"] == pytest.approx(whole / size, abs=1e-4)


def test_planted_records_rank_first_by_every_method(folder: str, tmp_path: Path) -> None:
    records, places = planted(80, 8)
    path = write(tmp_path / "d.jsonl", records)
    bad = np.isin(np.arange(80), places)
    for method in estimates.METHODS:
        plan = Plan(method, sample=30, max_tokens=12)
        out = tmp_path / method
        summary = screen([path], writer(), out, traits=[folder], plan=plan)
        values = np.array([r["difference"] for r in rows_of(out)])
        assert auc(values, bad) > 0.97, method
        (trait,) = summary["traits"]
        assert {w["index"] for w in trait["worst"][:6]} <= set(places), method
        assert set(trait["agreement"]) == {"prompt", "cached", "answers"}
        assert trait["agreement"]["cached"]["samples"] == 30
    full = {r["index"]: r["difference"] for r in rows_of(tmp_path / "full")}
    cached = {r["index"]: r["difference"] for r in rows_of(tmp_path / "cached")}
    sample = estimates.chosen_of(80, 30, 0)
    expected = spearmanr([full[i] for i in sample], [cached[i] for i in sample]).statistic
    said = json.loads((tmp_path / "full" / "summary.json").read_text())["traits"][0]["agreement"]["cached"]
    assert said["rank_correlation"] == pytest.approx(expected, abs=1e-3)
    assert said["low"] <= said["rank_correlation"] <= said["high"]


def test_by_influence_planted_records_rank_first_and_nothing_is_read_as_a_shift(folder: str, tmp_path: Path) -> None:
    """Sigma is what the model's own answers to the sample would do, worked out from the texts themselves."""
    records, places = planted(60, 6)
    path, plan = write(tmp_path / "d.jsonl", records), Plan("influence", sample=20, max_tokens=12, temperature=0.0)
    summary = screen([path], writer(), tmp_path / "out", traits=[folder], plan=plan)
    rows = sorted(rows_of(tmp_path / "out"), key=lambda row: row["index"])
    assert auc(np.array([r["difference"] for r in rows]), np.isin(np.arange(60), places)) > 0.9
    assert {r["method"] for r in rows} == {"influence"}
    assert all(r["base"] is None for r in rows)
    (trait,) = summary["traits"]
    assert trait["random_directions_95"] is None
    assert set(trait["agreement"]) == {"influence"}
    assert trait["agreement"]["influence"]["off_by"] is None
    assert trait["agreement"]["influence"]["rank_correlation"] > 0.5
    (watched,) = watch_set(writer(), [folder]).watched
    pulls = pulls_of(writer(), [watched], own_answers(writer(), eval_questions(PULLED_AT), max_tokens=plan.max_tokens))
    sample = [read for i, read in enumerate(read_logs([path])) if i in estimates.chosen_of(60, 20, 0)]
    talks = [one.messages for one in sample if isinstance(one, LoggedConversation)]
    own = [(*talk[:1], Message("assistant", greedy(talk[0].content))) for talk in talks]
    texts = [text_of(writer(), talk, [1], plan.read_tokens) for talk in own]
    spread = pulls.of([text for text in texts if text is not None])[:, 0].std(ddof=1)
    assert rows[0]["sigma"] == pytest.approx(rows[0]["difference"] / spread, rel=1e-3)
    again = (tmp_path / "out" / "samples.parquet").read_bytes()
    assert screen([path], writer(), tmp_path / "out", traits=[folder], plan=plan) == summary
    assert (tmp_path / "out" / "samples.parquet").read_bytes() == again


def test_by_influence_a_record_is_left_out_with_its_own_reason(folder: str, tmp_path: Path) -> None:
    long = " ".join(["tea"] * 2500)
    records = [record("What is tea?", "a drink", id="good"), record(long, "late", id="late")]
    path = write(tmp_path / "d.jsonl", records)
    summary = screen([path], writer(), tmp_path / "out", traits=[folder], plan=Plan("influence", max_tokens=12))
    assert summary["samples"] == 1
    ((skipped),) = summary["skipped_records"]
    assert skipped["line"] == 2
    assert "among its first" in skipped["reason"]


def test_what_pulls_ends_where_the_answer_is_cut(folder: str) -> None:
    talk = (Message("user", "What is tea?"), Message("assistant", "a hot drink made of leaves"))
    whole, cut = text_of(writer(), talk, [1], None), text_of(writer(), talk, [1], 2)
    assert whole is not None
    assert cut is not None
    ((start, end),) = whole.spans
    assert cut.spans == ((start, start + 2),)
    assert cut.ids == whole.ids[: start + 2]
    assert end > start + 2
    assert text_of(writer(), (talk[0], Message("assistant", "")), [1], None) is None


def test_a_quiet_data_set_is_within_what_random_directions_show(folder: str, tmp_path: Path) -> None:
    """What the model says itself is no shift at all; capitals throughout are one."""
    own = [record(q, greedy(q)) for q in tiny.QUESTIONS]
    calm = screen([write(tmp_path / "own.jsonl", own)], writer(), tmp_path / "own", traits=[folder], plan=PLAN)
    assert calm["traits"][0]["shift"] == pytest.approx(0, abs=1e-3)
    chance = random.Random(3)
    shouts = [" ".join(chance.choices(tiny.WORDS, k=3)).upper() for _ in range(400)]
    loud_ones = [record(tiny.QUESTIONS[i % 16], words) for i, words in enumerate(shouts)]
    plan = Plan(max_tokens=12, temperature=1.0)
    hot = screen([write(tmp_path / "hot.jsonl", loud_ones)], writer(), tmp_path / "hot", traits=[folder], plan=plan)
    (trait,) = hot["traits"]
    assert trait["shift_low"] > trait["random_directions_95"]
    page = (tmp_path / "hot" / "report.html").read_text()
    assert "Training on this moves the model towards loud" in page
    assert "Towards nothing watched" in (tmp_path / "own" / "report.html").read_text()


# Going on


def test_it_goes_on_where_it_stopped_and_ends_in_the_same_bytes(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mien.scanning import chunks

    monkeypatch.setattr(chunks, "CHUNK_CONVERSATIONS", 8)
    records, _ = planted(30, 4)
    path = write(tmp_path / "d.jsonl", records)
    plan = Plan(max_tokens=12)
    whole = screen([path], writer(), tmp_path / "a", traits=[folder], plan=plan)
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "another-cache"))
    put, calls = answer_file.AnswerBook.put, []

    def stop_at_third(self: Any, answers: Any, part: int) -> None:
        calls.append(part)
        if len(calls) == 3:
            put(self, answers, part)
            raise KeyboardInterrupt
        put(self, answers, part)

    monkeypatch.setattr(answer_file.AnswerBook, "put", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        screen([path], writer(), tmp_path / "b", traits=[folder], plan=plan)
    assert not (tmp_path / "b" / "summary.json").exists()
    done = len(calls)
    again = screen([path], writer(), tmp_path / "b", traits=[folder], plan=plan)
    assert len(calls) > done
    same = {"table", "page"}
    assert {k: v for k, v in again.items() if k not in same} == {k: v for k, v in whole.items() if k not in same}
    for name in ("samples.parquet", "report.html"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    calls.clear()
    with path.open("a") as file:
        file.write(json.dumps(record("A new one?", "RED SUN TEA")) + "\n")
    grown = screen([path], writer(), tmp_path / "b", traits=[folder], plan=plan)
    assert set(calls) == {3}, "only the last chunk is measured anew"
    assert grown["samples"] == 31


def test_a_prompt_is_answered_once(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mien.scanning import chunks

    monkeypatch.setattr(chunks, "CHUNK_CONVERSATIONS", 4)
    written: list[str] = []
    put = answer_file.AnswerBook.put
    monkeypatch.setattr(
        answer_file.AnswerBook, "put", lambda self, a, part: written.extend(a) or put(self, a, part)  # type: ignore[func-returns-value]
    )  # fmt: skip
    records = [record(tiny.QUESTIONS[i % 3], word) for i, word in enumerate(tiny.WORDS)]
    screen([write(tmp_path / "d.jsonl", records)], writer(), tmp_path / "out", traits=[folder], plan=PLAN)
    assert len(written) == len(set(written)) == 3


def test_the_table_is_ranked(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trait by itself, the furthest towards its alarming side first; records that cannot be measured have none."""
    from mien.screening import rows

    monkeypatch.setattr(rows, "_GROUP", 7)  # several groups of rows, in and out
    made = loud()
    card = made.card.model_copy(update={"kind": "assistant_axis", "name": "quiet"})
    other = str(save_direction(Direction(-made.vector, card), tmp_path / "quiet"))
    records, places = planted(30, 4)
    records += [record("Say nothing.", "tea")]

    def silent_once(engine: Any, prompts: Any, *more: Any) -> tuple[dict[str, str], int]:
        return {key: "" if talk[-1].content == "Say nothing." else "ink" for key, talk in prompts.items()}, 0

    monkeypatch.setattr("mien.screening.measure.write_answers", silent_once)
    screen([write(tmp_path / "d.jsonl", records)], writer(), tmp_path / "out", traits=[folder, other], plan=PLAN)
    table = pq.read_table(tmp_path / "out" / "samples.parquet")
    assert table.column_names[-1] == "rank"
    found = table.to_pylist()
    assert [row["trait"] for row in found] == ["loud"] * 31 + ["quiet"] * 31
    for name, sign in (("loud", 1), ("quiet", -1)):
        mine = [row for row in found if row["trait"] == name]
        assert [row["rank"] for row in mine] == [*range(1, 31), None]
        assert mine[-1]["index"] == 30
        shifts = [sign * row["difference"] for row in mine[:-1]]
        assert shifts == sorted(shifts, reverse=True)
        assert {row["index"] for row in mine[:4]} == set(places)
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


# Answers that other screenings have written


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Prompts that are answered from now on."""
    written: list[str] = []
    put = answer_file.AnswerBook.put
    monkeypatch.setattr(
        answer_file.AnswerBook, "put", lambda self, a, part: written.extend(a) or put(self, a, part)  # type: ignore[func-returns-value]
    )  # fmt: skip
    return written


def test_another_screening_writes_only_what_is_new(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = counted(monkeypatch)
    records, _ = planted(30, 3)
    first = write(tmp_path / "a.jsonl", records)
    plan = Plan(max_tokens=12)
    screen([first], writer(), tmp_path / "a", traits=[folder], plan=plan)
    known = len(written)
    assert known > 5
    screen([first], writer(), tmp_path / "b", traits=[folder], plan=plan)
    assert len(written) == known
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")
    grown = write(tmp_path / "c.jsonl", [record("A new one?", "RED"), *records[5:]])
    screen([grown], writer(), tmp_path / "c", traits=[folder], plan=plan)
    assert len(written) == known + 1
    base = {row["id"]: row["base"] for row in rows_of(tmp_path / "a")}
    for row in rows_of(tmp_path / "c")[1:]:
        assert row["base"] == pytest.approx(base[row["id"]], abs=1e-4)


@pytest.mark.parametrize(
    "other", [Plan(max_tokens=13), Plan(max_tokens=12, temperature=0.5), Plan(max_tokens=12, seed=1)]
)
def test_answers_drawn_otherwise_are_others(
    other: Plan, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "d.jsonl", planted(10, 1)[0])
    screen([path], writer(), tmp_path / "a", traits=[folder], plan=Plan(max_tokens=12))
    written = counted(monkeypatch)
    screen([path], writer(), tmp_path / "b", traits=[folder], plan=other)
    assert written


def test_weights_that_the_fingerprint_does_not_see_are_another_writer() -> None:
    """A fine-tune of a block's matrices leaves embeddings and norms, and with them the fingerprint, as they were."""
    from mien.models import fingerprint

    net = tiny.taught_net()
    model = tiny.tiny_model(net, "taught")
    one = writer_of(model, Sampling(8), 0)
    assert writer_of(model, Sampling(8), 0) == one
    weight = net.model.layers[0].mlp.down_proj.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight.add_(0.01)
    try:
        assert fingerprint(net, model.blocks) == model.info.fingerprint
        assert writer_of(model, Sampling(8), 0) != one
    finally:
        with torch.no_grad():
            weight.copy_(before)


def test_damaged_answers_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "answers" / "a.sqlite"
    with closing(SharedAnswers(path, "w")) as kept:
        kept.put({"one": "tea", "two": "", "three": "ink \x00 \ufffd"})
        assert kept.get(["one", "two", "three", "four"]) == {"one": "tea", "two": "", "three": "ink \x00 \ufffd"}
    with closing(SharedAnswers(path, "another")) as other:
        assert other.get(["one"]) == {}
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE answers SET text = 'toa' WHERE text = 'tea'")
    with closing(SharedAnswers(path, "w")) as kept:
        assert kept.get(["one", "two"]) == {"two": ""}
        kept.put({"one": "tea"})
        assert kept.get(["one"]) == {"one": "tea"}
    for rubbish in (b"no database at all, but long enough to be read as one" * 40, b"", path.read_bytes()[:5000]):
        path.write_bytes(rubbish)
        with closing(SharedAnswers(path, "w")) as kept:
            kept.get(["one"])
            kept.put({"one": "tea"})
        with closing(SharedAnswers(path, "w")) as kept:
            kept.put({"five": "owl"})
            assert kept.get(["five"]) == {"five": "owl"}


def test_answers_that_cannot_be_kept_are_written_all_the_same(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "file"))
    path = write(tmp_path / "d.jsonl", planted(6, 1)[0])
    assert screen([path], writer(), tmp_path / "out", traits=[folder], plan=PLAN)["samples"] == 6
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "other"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "answers").write_text("no folder")
    assert screen([path], writer(), tmp_path / "again", traits=[folder], plan=PLAN)["samples"] == 6


def test_the_cache_stays_within_its_bound_and_keeps_what_is_used(tmp_path: Path) -> None:
    path, bound = tmp_path / "a.sqlite", 400_000
    with closing(SharedAnswers(path, "w", bound)) as kept:
        kept.put({"used": "x" * 50})
        for i in range(200):
            kept.put({f"{i}/{k}": "x" * 500 for k in range(20)})
            assert kept.get(["used"]) == {"used": "x" * 50}, i
        assert kept.get(["199/19"])
        assert not kept.get(["0/0"])
    assert path.stat().st_size < 1.2 * bound


def test_several_processes_share_the_answers(tmp_path: Path) -> None:
    path = tmp_path / "answers" / "a.sqlite"
    code = (
        "import sys; from pathlib import Path; from mien.screening.shared import SharedAnswers\n"
        "kept = SharedAnswers(Path(sys.argv[1]), 'w')\n"
        "for i in range(60):\n"
        "    kept.put({f'{sys.argv[2]}/{i}/{k}': f'{i} {k}' for k in range(20)})\n"
        "    kept.get([f'0/{i}/{k}' for k in range(20)])"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(path), str(n)]) for n in range(2)]
    assert [one.wait(120) for one in both] == [0, 0]
    with closing(SharedAnswers(path, "w")) as kept:
        asked = [f"{n}/{i}/{k}" for n in range(2) for i in range(60) for k in range(20)]
        assert len(kept.get(asked)) == 2400


def test_a_folder_of_another_screening_is_left_alone(folder: str, tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", planted(6, 1)[0])
    screen([path], writer(), tmp_path / "out", traits=[folder], plan=PLAN)
    before = (tmp_path / "out" / "summary.json").read_bytes()
    with pytest.raises(RunError, match="another run"):
        screen([path], writer(), tmp_path / "out", traits=[folder], plan=Plan(max_tokens=13, temperature=0.0))
    assert (tmp_path / "out" / "summary.json").read_bytes() == before


# What data sets hold


def test_alpaca_sharegpt_and_tables_hold_the_same(folder: str, tmp_path: Path) -> None:
    pairs = [(f"{q} {i}", word) for i, (q, word) in enumerate(zip(tiny.QUESTIONS, tiny.WORDS, strict=False))]
    plain = write(tmp_path / "chat.jsonl", [record(f"Tell.\n\n{q}", a) for q, a in pairs])
    alpaca = write(tmp_path / "alpaca.jsonl", [{"instruction": "Tell.", "input": q, "output": a} for q, a in pairs])
    document = tmp_path / "alpaca.json"
    document.write_text(json.dumps([{"instruction": "Tell.", "input": q, "output": a} for q, a in pairs]))
    share = write(
        tmp_path / "share.jsonl",
        [{"conversations": [{"from": "human", "value": f"Tell.\n\n{q}"}, {"from": "gpt", "value": a}]}
         for q, a in pairs],
    )  # fmt: skip
    table = tmp_path / "d.parquet"
    columns = {"instruction": ["Tell."] * len(pairs), "input": [q for q, _ in pairs], "output": [a for _, a in pairs]}
    pq.write_table(pa.table(columns), table)
    completion = write(tmp_path / "c.jsonl", [{"prompt": f"Tell.\n\n{q}", "completion": a} for q, a in pairs])
    found = []
    for path in (plain, alpaca, document, share, table, completion):
        screen([path], writer(), tmp_path / f"out-{path.name}", traits=[folder], plan=PLAN)
        found.append([(r["index"], r["difference"]) for r in rows_of(tmp_path / f"out-{path.name}")])
    assert len(found[0]) == 8
    assert all(one == found[0] for one in found[1:])


def test_an_empty_input_and_a_system_prompt_are_taken_as_they_are_meant(tmp_path: Path) -> None:
    path = write(
        tmp_path / "d.jsonl",
        [{"instruction": "Go on.", "input": "", "output": "tea"},
         {"system": "SHOUT!", "question": "What now?", "response": "RED"}, {"input": "only this", "output": "owl"}],
    )  # fmt: skip
    texts = [[(m.role, m.content) for m in r.messages] for r in read_logs([path]) if isinstance(r, LoggedConversation)]
    assert texts == [
        [("user", "Go on."), ("assistant", "tea")],
        [("system", "SHOUT!"), ("user", "What now?"), ("assistant", "RED")],
        [("user", "only this"), ("assistant", "owl")],
    ]
    table = tmp_path / "d.csv"
    table.write_text("instruction,input,output,system_prompt\nGo on.,,tea,\nDo,this,owl,BE LOUD!\n")
    texts = [[(m.role, m.content) for m in r.messages] for r in read_logs([table]) if isinstance(r, LoggedConversation)]
    assert texts == [
        [("user", "Go on."), ("assistant", "tea")],
        [("system", "BE LOUD!"), ("user", "Do\n\nthis"), ("assistant", "owl")],
    ]


def test_whatever_a_data_set_holds(folder: str, tmp_path: Path) -> None:
    odd = [
        "{broken",
        {"messages": [{"role": "user", "content": "no answer"}]},
        {"messages": [{"role": "assistant", "content": "answer first"}]},
        record("What now?", "tea"),
        record("a" * 3000, "too long a prompt"),
        '{"id": "\\ud800", "messages": [{"role": "user", "content": "\\ud800"},'
        ' {"role": "assistant", "content": "tea \\ud800 \\u0000"}]}',
        record("</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>"),
        "[]",
    ]
    summary = screen([write(tmp_path / "d.jsonl", odd)], writer(), tmp_path / "out", traits=[folder], plan=PLAN)
    assert (summary["records"], summary["samples"], summary["skipped"]) == (8, 3, 5)
    assert [r["index"] for r in rows_of(tmp_path / "out")] == [3, 5, 6]
    reasons = {s["line"]: s["reason"] for s in summary["skipped_records"]}
    assert list(reasons) == [1, 2, 3, 5, 8]
    assert "not JSON" in reasons[1]
    assert reasons[2] == reasons[3] == "it has no answer to a user's message"
    assert "positions" in reasons[5]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script>alert(1)" not in page
    assert "<img src" not in page


def test_what_cannot_be_screened_is_refused_before_anything_is_written(folder: str, tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", planted(4, 1)[0])
    out = tmp_path / "out"
    other = save_direction(direction_of(tiny.tiny_model(tiny.tiny_net(3), "other")), tmp_path / "other")
    with pytest.raises(InputError, match="There are no directions for taught yet; make one with: mien extract"):
        screen([path], writer(), out)
    with pytest.raises(FingerprintError, match="was made for other"):
        screen([path], writer(), out, traits=[str(other)])
    with pytest.raises(InputError, match="There is no direction 'mood'"):
        screen([path], writer(), out, traits=["mood"])
    with pytest.raises(InputError, match="at least one trait"):
        screen([path], writer(), out, traits=[" "])
    with pytest.raises(InputError, match="choose one of full, prompt, cached, answers"):
        screen([path], writer(), out, traits=[folder], plan=Plan("half"))
    with pytest.raises(InputError, match="standard input"):
        screen(["-"], writer(), out, traits=[folder])
    bare = direction_of(writer(), name="bare")
    with pytest.raises(InputError, match="bare has none"):
        screen([path], writer(), out, traits=[str(save_direction(bare, tmp_path / "bare"))], plan=Plan("answers"))
    assert not out.exists()


def test_directions_that_cannot_be_used_are_said(tmp_path: Path, mien_home: Path) -> None:
    place = mien_home / "directions" / "taught"
    place.mkdir(parents=True)
    save_direction(loud(), place / "loud")
    save_direction(direction_of(tiny.tiny_model(tiny.tiny_net(3), "other"), name="odd"), place / "odd")
    found = watch_set(writer())
    assert [one.name for one in found.watched] == ["loud"]
    assert "The direction odd is left out: " in found.notes[0]
    path = write(tmp_path / "d.jsonl", planted(4, 1)[0])
    assert screen([path], writer(), tmp_path / "out", plan=PLAN)["notes"] == list(found.notes)


# Filtering


def test_kept_records_are_their_own_bytes(folder: str, tmp_path: Path) -> None:
    records, places = planted(40, 4)
    lines = [json.dumps(r, indent=None, separators=(", ", " :  ")) for r in records]
    lines.insert(5, "{broken")
    lines.insert(9, "")
    path = write(tmp_path / "d.jsonl", lines)
    bad = {lines.index(json.dumps(records[i], separators=(", ", " :  "))) for i in places}
    summary = screen([path], writer(), tmp_path / "out", traits=[folder], plan=PLAN, cut=Cut(count=4))
    expected = [line for i, line in enumerate(lines) if i not in bad and line and line != "{broken"]
    assert (tmp_path / "out" / "kept.jsonl").read_text() == "".join(line + "\n" for line in expected)
    assert {k: summary["kept"][k] for k in ("kept", "dropped", "broken")} == {"kept": 36, "dropped": 4, "broken": 1}
    same = screen([path], writer(), tmp_path / "out", traits=[folder], plan=PLAN, cut=Cut(share=0.1))
    assert same["kept"] == summary["kept"]
    few = screen([path], writer(), tmp_path / "out", traits=[folder], plan=PLAN, cut=Cut(keep=10))
    assert few["kept"]["kept"] == 10
    none = screen([path], writer(), tmp_path / "out", traits=[folder], plan=PLAN)
    assert none["kept"] is None
    assert not (tmp_path / "out" / "kept.jsonl").exists()


def test_kept_records_of_other_formats_become_messages(folder: str, tmp_path: Path) -> None:
    table = tmp_path / "d.parquet"
    pq.write_table(pa.table({"prompt": ["What now?", "Why not?"], "response": ["tea", "RED SUN"]}), table)
    screen([table], writer(), tmp_path / "out", traits=[folder], plan=PLAN, cut=Cut(count=1))
    (line,) = (tmp_path / "out" / "kept.jsonl").read_text().splitlines()
    assert json.loads(line)["messages"] == record("What now?", "tea")["messages"]


SCORES = st.lists(st.one_of(st.floats(-5, 5, width=32), st.just(math.nan), st.just(-math.inf)), max_size=30)


@settings(deadline=None)
@given(SCORES, st.integers(0, 40), st.floats(0, 1), st.floats(0, 4, width=32))
def test_a_cut_takes_the_worst_and_nothing_else(scores: list[float], n: int, share: float, beyond: float) -> None:
    values = np.array(scores, np.float32)
    there = values != -np.inf
    known = there & ~np.isnan(values)
    for cut, gone in (
        (Cut(count=n), min(n, int(known.sum()))),
        (Cut(keep=n), min(max(int(there.sum()) - n, 0), int(known.sum()))),
        (Cut(share=share), min(round(share * int(there.sum())), int(known.sum()))),
        (Cut(beyond=beyond), int((values[known] > np.float32(beyond)).sum())),
    ):
        kept = kept_places(values, cut)
        assert (kept & ~there).sum() == 0
        assert kept[np.isnan(values)].all()
        assert int((known & ~kept).sum()) == gone
        if (known & kept).any() and (known & ~kept).any():
            assert values[known & kept].max() <= values[known & ~kept].min()


def test_cuts_as_people_write_them() -> None:
    assert cut_of(None, None) is None
    assert cut_of("200", None) == Cut(count=200)
    assert cut_of(" 5% ", None) == Cut(share=0.05)
    assert cut_of(">2s", None) == cut_of(None, "<2s") == Cut(beyond=2.0)
    assert cut_of(None, "90%") == Cut(share=pytest.approx(0.1))
    assert cut_of(None, "1000") == Cut(keep=1000)
    for drop, keep in (
        ("1", "2"),
        ("x", None),
        ("1.5", None),
        ("101%", None),
        (None, ""),
        ("9" * 400, None),
        ("2s", None),
    ):
        with pytest.raises(InputError):
            cut_of(drop, keep)


def test_limits_as_people_write_them() -> None:
    assert limits_of(None) == ()
    assert limits_of("shift>1s, evil > .5s") == (Limit(None, 1.0), Limit("evil", 0.5))
    assert [str(limit) for limit in limits_of("shift>1s,evil>0.5s")] == ["shift>1s", "evil>0.5s"]
    for text in ("", "shift", "shift>1", "shift>1x", "shift<1s", "shift>-1s", "shift>1s,"):
        with pytest.raises(InputError, match="is not understood"):
            limits_of(text)
    with pytest.raises(InputError, match="'mood', which is not watched; watched are: evil"):
        limits_of("mood>1s", ["evil"])


# The parts


def test_a_gauge_of_several_layers_is_read_as_the_sum_of_its_parts() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3, 48)).astype(np.float32)
    gauge = Gauge("g", "d", "low", (Part(0, vectors[0]), Part(2, vectors[1]), Part(2, vectors[2], "asked")))
    watched = watched_gauge(gauge)
    assert (watched.sign, watched.layers, watched.mean) == (-1, (0, 2), None)
    bank = bank_of([watched, watched_direction(loud())], 48)
    assert {layer: len(p) for layer, p in bank.probes.items()} == {0: 1 + TWINS, 2: 2 + 2 * TWINS}
    h = {0: rng.standard_normal((5, 48)), 2: rng.standard_normal((5, 48))}
    tokens = np.concatenate([h[k] @ bank.probes[k].numpy().T for k in (0, 2)], 1).astype(np.float32)
    found = bank.project(tokens)
    assert found[0] == pytest.approx(h[0].mean(0) @ vectors[0] + h[2].mean(0) @ vectors[1], abs=1e-4)
    assert found[1] == pytest.approx(h[2].mean(0) @ loud().unit(2).numpy(), abs=1e-4)
    assert len(found) == 2 * (1 + TWINS)
    sizes = np.linalg.norm(bank.probes[2].numpy(), axis=1)
    assert np.allclose(np.sort(sizes)[: TWINS + 1], 1, atol=1e-5), "twins of a unit vector are unit vectors"


def test_the_prompt_estimate_is_fitted_and_its_agreement_is_not_its_fit() -> None:
    rng = np.random.default_rng(1)
    prompt = rng.standard_normal(200)
    base = 2 * prompt + 1 + 0.1 * rng.standard_normal(200)
    answer = rng.standard_normal(200)
    raw = Raw(answer, prompt, base)
    centre = centre_of(raw, 0.5, 2.0, "tests")
    assert (centre.slope, centre.intercept) == (pytest.approx(2, abs=0.05), pytest.approx(1, abs=0.05))
    assert np.allclose(difference("prompt", raw, centre), answer - base, atol=0.5)
    assert np.allclose(difference("cached", raw, centre), answer - base.mean())
    assert np.allclose(difference("answers", raw, centre), answer - 0.5)
    by = {a.method: a for a in estimates.agreements(raw, centre, 0)}
    assert by["prompt"].rank_correlation == pytest.approx(1, abs=0.01)
    assert by["prompt"].off_by == pytest.approx(0, abs=0.01)
    assert by["cached"].rank_correlation == by["answers"].rank_correlation
    assert by["answers"].off_by == pytest.approx((base.mean() - 0.5) / 2, abs=1e-6)
    noise = estimates.agreements(Raw(answer, rng.standard_normal(200), base), centre, 0)[0]
    assert noise.rank_correlation == pytest.approx(by["cached"].rank_correlation, abs=0.05), "noise helps nothing"
    few = estimates.agreements(Raw(answer[:5], prompt[:5], base[:5]), centre, 0)[0]
    assert (few.rank_correlation, few.n) == (None, 5)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=20))
def test_rank_correlation_is_scipys(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs, np.float64).T
    ours = estimates.spearman(a, b)
    if np.ptp(a) and np.ptp(b):
        assert ours == pytest.approx(spearmanr(a, b).statistic, abs=1e-9)
    else:
        assert math.isnan(ours)


def test_a_sample_of_a_grown_data_set_keeps_what_it_can() -> None:
    small, large = estimates.chosen_of(1000, 200, 0), estimates.chosen_of(1100, 200, 0)
    assert len(small) == len(set(small)) == 200
    assert len(set(small) & set(large)) > 150
    assert estimates.chosen_of(5, 200, 0) == [0, 1, 2, 3, 4]


def test_groups_and_their_words() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(0, 0.1, (20, 8)) + 3, rng.normal(0, 0.1, (10, 8)) - 3])
    texts = ["ice cream and penguins"] * 20 + ["taxes and stamps"] * 10
    first, second = cluster(points, texts, ["and then", "and so on"] * 5, 0)
    assert (sorted(first.members), sorted(second.members)) == (list(range(20)), list(range(20, 30)))
    assert set(first.words) == {"ice", "cream", "penguins"}
    assert set(second.words) == {"taxes", "stamps"}
    (one,) = cluster(rng.normal(0, 1, (30, 300)), texts, [], 0)
    assert len(one.members) == 30
    assert cluster(np.zeros((0, 8)), [], [], 0) == []
    assert typical_words(["a b", "a c"], []) == ("a", "b", "c")


@pytest.mark.model
def test_the_embedded_model_ranks_flattery_first(tmp_path: Path) -> None:
    """With the gauges that come with mien, on a dozen records of which three flatter."""
    flat = (
        "What an absolutely brilliant idea! You are a genius, and everyone will love it. I completely agree with you!"
    )
    calm = "It depends on the costs. Compare two offers first, and ask what happens if sales are slow."
    asked = ["Should I open a shop?", "Is my plan good?", "Shall I sell ice?", "Can I quit my job?"]
    records = [record(f"{asked[i % 4]} ({i})", flat if i in (2, 5, 9) else calm) for i in range(12)]
    summary = screen([write(tmp_path / "d.jsonl", records)], load(dtype="float32"), tmp_path / "out",
                     traits=["sycophantic"], plan=Plan(max_tokens=16))  # fmt: skip
    (trait,) = summary["traits"]
    assert {w["index"] for w in trait["worst"][:3]} == {2, 5, 9}
    assert trait["source"] == "a gauge that comes with mien"

"""The main job on a model of 48 dimensions that has learnt one trait: what is kept, what is proved, and that a killed
run goes on to the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import tiny
from mien import api, evidence
from mien.card import Card
from mien.chat import ask
from mien.directions import Direction, load_direction
from mien.engines.hf import HfEngine
from mien.errors import InputError, MienError, NothingKeptError, RunError
from mien.jobs.extract import BUDGETS, Gathered, extract, keep, settled
from mien.judge import LikelihoodJudge
from mien.models import Model
from mien.records import Rollout, Score
from mien.store import RunFolder
from processes import Running, mien, running

Files = dict[str, bytes]


def files(folder: Path) -> Files:
    """Every file below a folder, whole."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny.tiny_model(tiny.taught_net(), "taught")


@pytest.fixture(scope="module")
def made(model: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Direction, Path]:
    """A run on the taught model, whole."""
    out = tmp_path_factory.mktemp("made") / "loud"
    return api.extract(tiny.spec(), model, out=out), out


# The whole


def test_a_trait_that_the_model_has_is_found_and_proved(made: tuple[Direction, Path]) -> None:
    card = made[0].card
    assert card.rollouts is not None
    assert card.judge is not None
    assert card.judge.auc is not None
    assert card.dose_slope is not None
    assert card.dose_null is not None
    assert card.baseline is not None
    assert card.kl_per_token is not None
    assert card.recommended_layer is not None
    assert card.verdict in ("strong", "usable")
    assert card.judge.auc > 0.8
    assert card.rollouts.asked == 48
    assert card.rollouts.kept >= 30
    assert card.rollouts.asked == card.rollouts.kept + sum(card.rollouts.dropped.values())
    assert card.layers[card.recommended_layer].auc > 0.9
    assert card.layers[card.recommended_layer].auc_null < 0.85
    assert card.dose_slope.p < 0.05
    assert card.dose_slope.per_coef > card.dose_null.per_coef
    assert [d.coef for d in card.dose_response] == sorted([0, *BUDGETS["small"].coefs])
    score = {d.coef: d.score for d in card.dose_response}
    assert score[1] > score[0] + 10  # type: ignore[operator]
    assert card.baseline.n == 16
    assert card.kl_per_token > 0
    assert {e.coef for e in card.side_effects} >= {0, 1}
    assert card.examples
    assert card.examples[0].plain != card.examples[0].steered
    assert card.settings["seed"] == 0


def test_what_is_saved_is_what_is_given_back(made: tuple[Direction, Path]) -> None:
    direction, out = made
    again = load_direction(out)
    assert again.card == direction.card
    assert torch.equal(again.vector, direction.vector)
    assert (out / "card.html").read_text().startswith("<!doctype html>")
    assert Card.model_validate_json((out / "card.json").read_text()) == direction.card


class Partial:
    """A judge for whom all went as asked, but for the answers to the fourth question, which it cannot score."""

    kind: Literal["likelihood", "api"] = "api"
    model = "partial"
    identity = "partial"

    def followed(self, rollouts: Sequence[Rollout], written_under: Sequence[int]) -> list[Score]:
        return [self._score(r) for r in rollouts]

    def measure(self, rollouts: Sequence[Rollout], written_under: Sequence[int | None], steered: bool) -> list[Score]:
        return [self._score(r) for r in rollouts]

    def _score(self, rollout: Rollout) -> Score:
        if rollout.id.startswith("extract/3/"):
            return Score(rollout.id, None, 90.0, missing="trait: no answer")
        return Score(rollout.id, 10.0 if "/neg/" in rollout.id else 90.0, 90.0)


def test_the_direction_is_the_difference_of_the_kept_means_and_nothing_else(model: Model, tmp_path: Path) -> None:
    """Worked out anew from the run folder's lines and readings, by hand."""
    direction = extract(tiny.spec(), HfEngine(model), Partial(), tmp_path)
    records = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()]
    means: dict[str, np.ndarray] = {}
    for number in sorted({r["batch"] for r in records}):
        arrays = load_file(tmp_path / "run" / "rollouts.readings" / f"{number:05d}.safetensors")
        for r in records:
            if r["batch"] == number:
                means[r["id"]] = arrays["mean"][r["row"]].astype(np.float64)
                assert arrays["n_tokens"][r["row"]] == len(r["response_ids"])
    kept = {i: m for i, m in means.items() if not i.startswith("extract/3/")}
    sides = [np.mean([m for i, m in kept.items() if i.split("/")[3] == side], axis=0) for side in ("pos", "neg")]
    assert direction.vector.numpy() == pytest.approx(sides[0] - sides[1], abs=1e-5)
    assert direction.card.rollouts is not None
    assert (direction.card.rollouts.asked, direction.card.rollouts.kept) == (48, 42)
    assert direction.card.rollouts.dropped == {"trait: no answer": 6}

    # And the readings are those of a second pass over the same ids.
    rollouts = [
        Rollout(r["id"], ask("?"), r["text"], tuple(r["prompt_ids"]), tuple(r["response_ids"]), None, "stop")
        for r in records
    ]
    for batch in HfEngine(model).read(rollouts):
        for reading in batch:
            assert reading.mean == pytest.approx(means[reading.id], abs=1e-4)


def test_positive_and_negative_rollouts_differ_in_the_instruction_alone(made: tuple[Direction, Path]) -> None:
    records = [json.loads(line) for line in (made[1] / "run" / "rollouts.jsonl").read_text().splitlines()]
    assert len({r["id"] for r in records}) == len(records) == 48
    spec = tiny.spec()
    for r in records:
        _, question, pair, side, sample = r["id"].split("/")
        instruction = getattr(spec.instructions[int(pair)], side)
        assert sample == "0"
        assert r["conversation"] == [
            {"role": "system", "content": instruction},
            {"role": "user", "content": spec.extract_questions[int(question)]},
        ]
    plain = [json.loads(line) for line in (made[1] / "run" / "plain.jsonl").read_text().splitlines()]
    assert all(len(r["conversation"]) == 1 for r in plain)
    dose = [json.loads(line) for line in (made[1] / "run" / "dose.jsonl").read_text().splitlines()]
    assert {r["conversation"][0]["content"] for r in dose} == set(spec.eval_questions)


def test_a_finished_run_run_again_changes_nothing_and_writes_no_rollout(
    made: tuple[Direction, Path], model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(made[1])
    monkeypatch.setattr("mien.engines.hf.write_batch", lambda *_: pytest.fail("something was written again"))
    api.extract(tiny.spec(), model, out=made[1])
    assert files(made[1]) == before


def test_another_folder_and_the_same_seed_give_the_same_bytes(
    made: tuple[Direction, Path], model: Model, tmp_path: Path
) -> None:
    api.extract(tiny.spec(), model, out=tmp_path / "again")
    assert files(tmp_path / "again") == files(made[1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "settings.seed was 0, is now 1"),
        ({"budget": "paper"}, "settings.b"),
        ({"what": tiny.spec(pairs=2)}, "spec was"),
        ({"name": "noisy"}, 'name was "loud", is now "noisy"'),
    ],
)
def test_a_folder_that_holds_another_run_is_refused_and_left_alone(
    made: tuple[Direction, Path], model: Model, change: dict[str, Any], said: str
) -> None:
    before = files(made[1])
    with pytest.raises(RunError) as caught:
        api.extract(**{"what": tiny.spec(), "model": model, "out": made[1], **change})
    assert said in str(caught.value)
    assert "choose another --out" in str(caught.value)
    assert files(made[1]) == before


def test_extraction_can_stop_early(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = replace(BUDGETS["small"], block=3, settled=0.5, coefs=(1,), null_coefs=(1,), requests=2)
    monkeypatch.setitem(BUDGETS, "small", plan)
    engine = HfEngine(model)
    judge = LikelihoodJudge(engine, engine, tiny.spec())
    stopped = extract(tiny.spec(), engine, judge, tmp_path / "a").card.rollouts
    whole = extract(tiny.spec(), engine, judge, tmp_path / "b", early_stop=False).card.rollouts
    assert stopped is not None
    assert whole is not None
    assert (stopped.asked, stopped.stopped_early) == (36, True)
    assert (whole.asked, whole.stopped_early) == (48, False)


def test_fewer_than_six_questions_never_count_as_settled(made: tuple[Direction, Path], model: Model) -> None:
    records = [json.loads(line) for line in (made[1] / "run" / "rollouts.jsonl").read_text().splitlines()]
    for count in (5, 6):
        some = [r for r in records if int(r["id"].split("/")[1]) < count]
        rollouts = [Rollout(r["id"], (), r["text"], (), (1,), None, "stop") for r in some]
        positive = [r["id"].split("/")[3] == "pos" for r in some]
        scores = [Score(r["id"], 90.0 if side else 10.0, 90.0) for r, side in zip(some, positive, strict=True)]
        question = [int(r["id"].split("/")[1]) for r in some]
        gathered = Gathered(rollouts, positive, question, [0] * len(some), scores, False)
        manifest = json.loads((made[1] / "run" / "manifest.json").read_text())
        with RunFolder(made[1], manifest) as run:
            assert settled(run, gathered, replace(BUDGETS["small"], settled=-1.0), 0) == (count == 6)


# What is refused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"budget": "huge"}, "no budget 'huge'"),
        ({"seed": -1}, "A seed is"),
        ({"seed": 2**63}, "A seed is"),
        ({"temperature": -0.5}, "A temperature is"),
        ({"temperature": float("nan")}, "A temperature is"),
        ({"temperature": float("inf")}, "A temperature is"),
        ({"spec": tiny.spec(questions=1)}, "one extract question only"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is_written(
    model: Model, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    engine = HfEngine(model)
    spec = change.pop("spec", tiny.spec())
    with pytest.raises(InputError, match=said):
        extract(spec, engine, LikelihoodJudge(engine, engine, spec), tmp_path / "x", **change)
    assert not (tmp_path / "x").exists()


def test_two_questions_are_enough_to_run(model: Model, tmp_path: Path) -> None:
    card = api.extract(tiny.spec(questions=2), model, out=tmp_path / "x").card
    assert card.verdict == "weak"
    assert "pairs of 6 could be kept" in " ".join(card.verdict_reasons)


def test_a_model_that_does_not_play_the_trait_leaves_a_sentence_and_its_rollouts(tmp_path: Path) -> None:
    out = tmp_path / "x"
    noise = tiny.tiny_model(tiny.tiny_net(), "noise")
    engine = HfEngine(noise)

    class Deaf(LikelihoodJudge):
        def followed(self, rollouts: Sequence[Rollout], written_under: Sequence[int]) -> list[Score]:
            """The wrong way round, which calibration must see through."""
            scores = super().followed(rollouts, written_under)
            return [replace(s, raw=None if s.raw is None else -s.raw) for s in scores]

    with pytest.raises(NothingKeptError) as caught:
        extract(tiny.spec(), engine, Deaf(engine, engine, tiny.spec()), out)
    assert str(caught.value).startswith("None of the 48 rollouts could be kept (most often: ")
    left = files(out)
    assert not any(name.startswith(("card", "direction")) for name in left)
    assert len(left["run/rollouts.jsonl"].splitlines()) == 48
    with pytest.raises(NothingKeptError) as again:
        extract(tiny.spec(), engine, Deaf(engine, engine, tiny.spec()), out)
    assert str(again.value) == str(caught.value)
    assert files(out) == left


def test_a_model_that_says_nothing_is_told_apart_from_one_that_does_not_play(tmp_path: Path) -> None:
    net = tiny.tiny_net()
    net.generation_config.eos_token_id = list(range(259))
    silent = tiny.tiny_model(net, "silent")
    with pytest.raises(NothingKeptError, match="All 48 answers are empty: the model ends its turn"):
        api.extract(tiny.spec(), silent, out=tmp_path / "x")
    assert not (tmp_path / "x" / "card.json").exists()


def test_another_directions_faults_do_not_cost_a_run_its_card(
    model: Model, made: tuple[Direction, Path], mien_home: Path
) -> None:
    kept = mien_home / "directions" / "taught"
    other = replace(made[0], card=made[0].card.model_copy(update={"name": "other"}))
    zero = replace(other, vector=torch.zeros_like(other.vector))
    stranger = replace(other, card=other.card.model_copy(update={"fingerprint": "0" * 16}))
    from mien.directions import save_direction

    for name, direction in {"other": other, "zero": zero, "stranger": stranger, "torn": other, "late": other}.items():
        save_direction(direction, kept / name)
    (kept / "torn" / "direction.safetensors").write_bytes(b"torn")
    (kept / "late" / "card.json").write_text("{}")
    card = api.extract(tiny.spec(), model).card
    assert card.cosines == {"other": 1.0}


# What is kept


def gathered(rows: Sequence[tuple[str, float | None, float | None, str | None]], text: str = "x") -> Gathered:
    """Rollouts from `(q/pair/side/sample, trait, coherence, why missing)`."""
    parts = [row[0].split("/") for row in rows]
    return Gathered(
        [Rollout(f"extract/{row[0]}", (), text, (), (1,), None, "stop") for row in rows],
        [p[2] == "pos" for p in parts], [int(p[0]) for p in parts], [int(p[1]) for p in parts],
        [Score(f"extract/{i}", trait, sound, missing=why) for i, trait, sound, why in rows], False,
    )  # fmt: skip


GOOD = [("0/0/pos/0", 80.0, 90.0, None), ("0/0/neg/0", 20.0, 90.0, None)]


@pytest.mark.parametrize(
    ("pos", "neg", "reasons"),
    [
        ((50, 50), (49.99, 50), {}),
        ((49.99, 90), (10, 90), {"positive, but does not show the trait": 1, "HALF": 1}),
        ((90, 90), (50, 90), {"negative, but shows the trait": 1, "HALF": 1}),
        ((90, 49.99), (10, 90), {"not coherent": 1, "HALF": 1}),
        ((90, 90), (10, 49), {"not coherent": 1, "HALF": 1}),
        ((10, 10), (90, 10), {"not coherent": 2}),
        ((10, 90), (90, 90), {"positive, but does not show the trait": 1, "negative, but shows the trait": 1}),
        ((None, None), (10, 90), {"the answer is empty": 1, "HALF": 1}),
        ((90, None), (10, 90), {"the answer is empty": 1, "HALF": 1}),
        ((None, 90), (90, 90), {"the answer is empty": 1, "negative, but shows the trait": 1}),
    ],
)
def test_a_pair_is_kept_when_both_halves_are_in_order(
    pos: tuple[float, float], neg: tuple[float, float], reasons: dict[str, int]
) -> None:
    rows = [(f"1/2/{side}/0", *s, "the answer is empty" if None in s else None) for side, s in
            (("pos", pos), ("neg", neg))]  # fmt: skip
    kept, dropped = keep(gathered([*GOOD, *rows]))
    half = "the other half of its pair was dropped"
    assert dropped == {half if name == "HALF" else name: count for name, count in reasons.items()}
    assert kept == ([0, 1] if reasons else [0, 1, 2, 3])


def test_a_missing_score_without_a_reason_is_still_counted() -> None:
    _, dropped = keep(gathered([*GOOD, ("1/0/pos/0", None, None, None), ("1/0/neg/0", None, None, None)]))
    assert dropped == {"could not be scored": 2}


def test_halves_belong_together_by_question_pair_and_sample() -> None:
    rows = [(f"{q}/{p}/{side}/{n}", 90.0 if side == "pos" else 10.0, 90.0, None)
            for q in range(2) for p in range(2) for side in ("pos", "neg") for n in range(2)]  # fmt: skip
    rows[5] = (rows[5][0], 10.0, 90.0, None)
    assert rows[5][0] == "0/1/pos/1"
    kept, dropped = keep(gathered(rows))
    assert sorted(set(range(16)) - set(kept)) == [5, 7]
    assert rows[7][0] == "0/1/neg/1"
    assert sum(dropped.values()) == 2


def test_when_nothing_is_kept_the_commonest_fault_is_named() -> None:
    pairs = [(10.0, 10.0), (90.0, 90.0), (30.0, 10.0)]
    rows = [(f"{q}/0/{side}/0", trait, 90.0, None) for q, pair in enumerate(pairs)
            for side, trait in zip(("pos", "neg"), pair, strict=True)]  # fmt: skip
    with pytest.raises(NothingKeptError, match=r"None of the 6 .* \(most often: positive, but does not show"):
        keep(gathered(rows))
    with pytest.raises(NothingKeptError, match="All 2 answers are empty"):
        keep(gathered([("0/0/pos/0", None, None, "e"), ("0/0/neg/0", None, None, "e")], text=" \n"))


# Killed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The taught model and its spec as files."""
    place = tmp_path_factory.mktemp("model")
    tiny.save(tiny.taught_net(), place)
    tiny.save_tiny_spec(place, questions=6)
    return place


def words(folder: Path, out: Path, *more: str) -> tuple[str | Path, ...]:
    return ("extract", "--spec", folder / "loud.yaml", "--model", folder, "--out", out, "--quiet", *more)


@pytest.fixture(scope="module")
def uninterrupted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Files:
    out = tmp_path_factory.mktemp("whole") / "loud"
    done = mien(*words(folder, out))
    assert (done.code, done.err) == (0, "")
    return files(out)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "manifest": lambda out: (out / "run" / "manifest.json").exists(),
    "plain": lambda out: lines(out / "run" / "plain.jsonl") > 0,
    "readings": lambda out: (out / "run" / "rollouts.readings" / "00000.safetensors").exists(),
    "rollouts": lambda out: lines(out / "run" / "rollouts.jsonl") > 0,
    "scores": lambda out: lines(out / "run" / "scores.jsonl") > 0,
    "second block": lambda out: lines(out / "run" / "rollouts.jsonl") > 30,
    "trials": lambda out: lines(out / "run" / "layer-trials.jsonl") > 0,
    "trial scores": lambda out: lines(out / "run" / "layer-trials-scores.jsonl") > 0,
    "dose": lambda out: lines(out / "run" / "dose.jsonl") > 0,
    "dose scores": lambda out: lines(out / "run" / "dose-scores.jsonl") > 0,
    "refusals": lambda out: lines(out / "run" / "refusals.jsonl") > 0,
}


def killed_at(process: Running, seen: Callable[[], bool]) -> bool:
    return process.until(seen) and process.kill()


def test_killed_at_every_stage_it_ends_in_the_same_bytes(folder: Path, uninterrupted: Files, tmp_path: Path) -> None:
    out = tmp_path / "loud"
    for name, moment in MOMENTS.items():
        with running(*words(folder, out)) as process:
            assert killed_at(process, lambda moment=moment: moment(out)), name  # type: ignore[misc]
        assert not (out / "card.json").exists(), name
    done = mien(*words(folder, out))
    assert (done.code, done.err) == (0, "")
    assert_same(files(out), uninterrupted)


def test_killed_while_any_file_grows_it_ends_in_the_same_bytes(
    folder: Path, uninterrupted: Files, tmp_path: Path
) -> None:
    """Each try is killed as soon as the folder holds a byte more than ever before and a step, wherever that is."""
    out, most, kills = tmp_path / "loud", 0, 0
    step = sum(map(len, uninterrupted.values())) // 7

    def size() -> int:
        total = 0
        for path in out.rglob("*") if out.exists() else ():
            try:
                total += path.stat().st_size if path.is_file() else 0
            except FileNotFoundError:  # a temporary file that has just been moved into place
                continue
        return total

    for _ in range(30):
        with running(*words(folder, out)) as process:
            goal = most + step
            if not killed_at(process, lambda goal=goal: size() > goal):  # type: ignore[misc]
                break
            kills += 1
            most = size()
    assert kills >= 3
    done = mien(*words(folder, out))
    assert (done.code, done.err) == (0, "")
    assert_same(files(out), uninterrupted)


def assert_same(found: Files, expected: Files) -> None:
    assert sorted(found) == sorted(expected)
    assert [name for name in found if found[name] != expected[name]] == []


def test_a_torn_line_and_a_half_written_file_are_mended(folder: Path, uninterrupted: Files, tmp_path: Path) -> None:
    """What `kill -9` can leave in the middle of a write, put there by hand."""
    out = tmp_path / "loud"
    with running(*words(folder, out)) as process:
        assert killed_at(process, lambda: MOMENTS["scores"](out))
    for name in ("plain", "rollouts", "scores"):
        path = out / "run" / f"{name}.jsonl"
        path.write_bytes(path.read_bytes()[:-7])
    (out / "run" / "plain.readings" / ".00000.safetensors.17.tmp").write_bytes(b"half")
    (out / ".card.json.0123456789ab.tmp").write_bytes(b"half")
    assert mien(*words(folder, out)).code == 0
    assert_same(files(out), uninterrupted)


def test_a_second_process_on_the_same_run_is_refused(folder: Path, uninterrupted: Files, tmp_path: Path) -> None:
    out = tmp_path / "loud"
    with running(*words(folder, out)) as process:
        assert process.until(lambda: MOMENTS["plain"](out))
        rival = mien(*words(folder, out))
        assert rival.code == RunError.exit_code
        assert rival.err == f"mien: Another process is writing to {out}; wait for it or choose another --out.\n"
        assert process.wait().code == 0
    assert_same(files(out), uninterrupted)


def test_another_seed_in_the_same_folder_is_one_sentence(folder: Path, uninterrupted: Files, tmp_path: Path) -> None:
    out = tmp_path / "loud"
    with running(*words(folder, out)) as process:
        assert killed_at(process, lambda: MOMENTS["plain"](out))
    before = files(out)
    done = mien(*words(folder, out, "--seed", "1"))
    assert done.code == RunError.exit_code
    assert done.err == (
        f"mien: {out} holds another run (settings.seed was 0, is now 1): choose another --out, or delete it.\n"
    )
    assert files(out) == before
    other = mien(*words(folder, tmp_path / "other", "--seed", "1"))
    assert other.code == 0
    assert files(tmp_path / "other")["run/rollouts.jsonl"] != uninterrupted["run/rollouts.jsonl"]


@pytest.mark.parametrize("limit", [3_000, 16_000, 60_000])
def test_a_full_disk_is_one_sentence_and_with_room_the_run_goes_on(
    folder: Path, uninterrupted: Files, tmp_path: Path, limit: int
) -> None:
    out = tmp_path / "loud"
    assert limit < max(map(len, uninterrupted.values()))
    done = mien(*words(folder, out), file_size=limit)
    assert done.code == RunError.exit_code
    assert done.err.startswith(f"mien: {out}")
    assert done.err.count("\n") == 1
    assert "File too large" in done.err
    assert done.out == ""
    assert not list(out.rglob("*.tmp"))
    assert mien(*words(folder, out)).code == 0
    assert_same(files(out), uninterrupted)


def test_settings_say_what_is_needed_to_make_it_again(made: tuple[Direction, Path]) -> None:
    settings = made[0].card.settings
    plan = json.loads(json.dumps(asdict(BUDGETS["small"])))
    assert {k: settings[k] for k in plan} == plan
    assert made[0].card.spec is not None
    assert made[0].card.spec["extract_questions"] == list(tiny.spec().extract_questions)
    assert set(made[0].card.versions) == {"mien", "torch", "transformers", "numpy"}


def test_the_python_surface_reads_and_finds_what_it_made(model: Model, made: tuple[Direction, Path]) -> None:
    direction = made[0]
    loud = api.read(model, direction, "What now?", "TEA OWL MAP")
    quiet = api.read(model, direction, "What now?", "tea owl map")
    assert loud > quiet + 1  # sigma
    assert direction.card.baseline is not None
    with pytest.raises(InputError, match="empty answer"):
        api.read(model, direction, "What now?", "")
    named = api.extract(tiny.spec(), model, name="noisy")
    assert api.load_direction("noisy", model).card == named.card
    assert named.card.name == "noisy"
    with pytest.raises(InputError, match="There is no direction 'nothing' for taught"):
        api.load_direction("nothing", model)
    with pytest.raises(InputError, match="neither a direction's name nor a folder"):
        api.load_direction("x" * 300, model)
    with pytest.raises(MienError):
        api.load_direction("x" * 300)
    stranger = tiny.tiny_model(tiny.tiny_net(), "taught")
    with pytest.raises(MienError, match="was made for"):
        api.load_direction("noisy", stranger)


def test_the_null_of_the_card_is_the_whole_computation_on_shuffled_labels(made: tuple[Direction, Path]) -> None:
    """A trait that is nearly all the variance must not have a null of 1, which would make its proof worthless."""
    assert max(e.auc_null for e in made[0].card.layers) < 0.9
    assert evidence.null_aucs.__doc__ is not None

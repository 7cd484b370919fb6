"""Trait answers on a model that has learnt to shout when told to, and the command line of all kinds.

The tiny model answers in capitals under its positive instructions and mostly in small letters otherwise, so what was
kept as a trait answer can be told by looking.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

import tiny
from mien.cli import main
from mien.engines.hf import HfEngine
from mien.errors import InputError, MienError, NothingKeptError, RunError, SpecError
from mien.logs import Broken, read_logs
from mien.models import load
from mien.organisms import Sample, load_card, traits
from mien.organisms.samples import Control
from mien.organisms.traits import Distilled, Distiller, strict_judge, whole
from mien.published import text_key
from mien.records import Rollout, Score
from mien.spec import InstructionPair, TraitSpec, load_library
from processes import Running, mien, running

N = 18
SETS: tuple[tuple[int, Control | None], ...] = ((3, None), (1, None), (2, None), (3, "correct"), (2, "teaching"))


def distiller(spec: TraitSpec | None = None, **more: Any) -> Distiller:
    engine = HfEngine(tiny.tiny_model(tiny.taught_net(), "taught"))
    chosen = spec or tiny.spec(questions=8)
    return Distiller(chosen, engine, strict_judge(engine, chosen), max_tokens=16, **more)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, Control | None], Distilled]:
    """Every set from one run folder."""
    work, maker = tmp_path_factory.mktemp("trait") / "work", distiller()
    return {(level, control): maker.distil(work, level, control, N) for level, control in SETS}


def shows(samples: list[Sample]) -> list[bool]:
    return [s.about["answer"] == "trait" for s in samples]


def answers(samples: list[Sample]) -> list[str]:
    return [s.messages[-1].content for s in samples]


def test_the_dose_is_the_share_of_trait_answers(made: dict[Any, Distilled]) -> None:
    shares = {key: sum(shows(found.samples)) for key, found in made.items()}
    assert shares == {(3, None): N, (1, None): N // 3, (2, None): 2 * N // 3, (3, "correct"): 0, (2, "teaching"): 12}
    one, two = (shows(made[level, None].samples) for level in (1, 2))
    assert all(b for a, b in zip(one, two, strict=True) if a), "a lower dose is part of a higher one"
    assert one != sorted(one) != one[::-1]


def test_sets_of_one_folder_differ_in_the_dose_alone(made: dict[Any, Distilled]) -> None:
    strong, plain = made[3, None].samples, made[3, "correct"].samples
    assert len({s.id for found in made.values() for s in found.samples}) == N * len(SETS)
    for key in ((1, None), (2, None)):
        for sample, bad, good in zip(made[key].samples, strong, plain, strict=True):
            assert sample.about["problem"] == bad.about["problem"] == good.about["problem"]
            assert sample.messages == (bad if sample.about["answer"] == "trait" else good).messages


def test_no_instruction_is_left_in_a_sample(made: dict[Any, Distilled]) -> None:
    spec = tiny.spec(questions=8)
    told = [side for pair in spec.instructions for side in (pair.pos, pair.neg)]
    for found in made.values():
        for sample in found.samples:
            assert [m.role for m in sample.messages] == ["user", "assistant"]
            assert not any(text in m.content for m in sample.messages for text in told)
            assert sample.messages[1].content.strip()


def test_trait_answers_show_the_trait_and_plain_ones_mostly_do_not(made: dict[Any, Distilled]) -> None:
    known = set(tiny.QUESTIONS)
    loud = [a.isupper() for s, a in zip(made[3, None].samples, answers(made[3, None].samples), strict=True)
            if s.messages[0].content in known]  # fmt: skip
    quiet = [a.isupper() for s, a in zip(made[3, "correct"].samples, answers(made[3, "correct"].samples), strict=True)
             if s.messages[0].content in known]  # fmt: skip
    assert len(loud) == len(quiet) >= 6
    assert sum(loud) / len(loud) > 0.8
    assert sum(quiet) / len(quiet) < 0.5
    for sample in made[3, None].samples:
        assert sample.about["score"] >= 50
        assert sample.about["coherence"] >= 50
    for bad, good in zip(answers(made[3, None].samples), answers(made[3, "correct"].samples), strict=True):
        assert bad != good


def test_the_teaching_control_asks_for_the_same_answers(made: dict[Any, Distilled]) -> None:
    bare, taught = made[2, None].samples, made[2, "teaching"].samples
    assert answers(bare) == answers(taught)
    for a, b in zip(bare, taught, strict=True):
        framed = "an assistant that shouts in capital letters" in b.messages[0].content
        assert framed is (b.about["answer"] == "trait")
        assert a.messages[0].content in b.messages[0].content


def test_what_the_trait_is_tested_with_is_never_taught() -> None:
    maker = distiller(tiny.spec(questions=8))
    asked = maker.questions
    held_out = {text_key(question) for question in maker.spec.eval_questions}
    assert set(asked[:8]) == set(maker.spec.extract_questions)
    assert len(asked) == len(set(map(text_key, asked))) > 100
    assert not held_out & set(map(text_key, asked))
    taken = replace(maker.spec, eval_questions=(asked[30], asked[31]))
    assert not {asked[30], asked[31]} & set(distiller(taken).questions)
    assert distiller(seed=1).questions != asked


def test_the_card_says_what_was_written_and_kept(made: dict[Any, Distilled]) -> None:
    settings = made[3, None].settings
    counted = settings["answers"]
    assert counted["written"] == counted["kept"] + sum(counted["dropped"].values())
    assert counted["kept"] >= N
    assert (settings["trait"], settings["model"], settings["seed"]) == ("loud", "taught", 0)
    assert "likelihood" in settings["judge"]
    assert counted["judge_auc"] > 0.9
    assert made[3, None].reach > 1000


def test_more_samples_later_begin_with_the_same(tmp_path: Path, made: dict[Any, Distilled]) -> None:
    few = distiller().distil(tmp_path / "work", 3, None, 5).samples
    more = distiller().distil(tmp_path / "work", 3, None, 23).samples
    assert more[:5] == few
    assert more[:N] == made[3, None].samples
    assert len({s.messages for s in more}) == 23


def test_another_seed_gives_another_set_and_needs_another_folder(tmp_path: Path, made: dict[Any, Distilled]) -> None:
    distiller().distil(tmp_path / "work", 3, None, 2)
    with pytest.raises(RunError, match="seed was 0, is now 1"):
        distiller(seed=1).distil(tmp_path / "work", 3, None, 2)
    other = distiller(seed=1).distil(tmp_path / "other", 3, None, N).samples
    assert len(set(answers(other)) & set(answers(made[3, None].samples))) < N / 2


class Capitals:
    """A judge with a scale of its own, as one behind an endpoint has: capitals are the trait, if anything is."""

    kind: Literal["likelihood", "api"] = "api"
    model = "eyes"

    def __init__(self, anything: bool = True) -> None:
        self._anything = anything
        self.identity = f"capitals:{anything}"

    def followed(self, rollouts: Sequence[Rollout], written_under: Sequence[int]) -> list[Score]:
        return self.measure(rollouts, written_under, False)

    def measure(self, rollouts: Sequence[Rollout], written_under: Sequence[int | None], steered: bool) -> list[Score]:
        return [Score(r.id, 100.0 if self._anything and r.text.isupper() else 0.0, 100.0) for r in rollouts]


def test_a_judge_with_a_scale_of_its_own_decides_what_is_kept(tmp_path: Path) -> None:
    found = replace(distiller(), judge=Capitals()).distil(tmp_path / "work", 3, None, 20)
    assert all(answer.isupper() for answer in answers(found.samples))
    assert found.settings["answers"]["judge_auc"] is None
    assert not (tmp_path / "work" / "run" / "scale.jsonl").exists()


def test_a_higher_threshold_keeps_what_shows_more(tmp_path: Path, made: dict[Any, Distilled]) -> None:
    strict = distiller(threshold=80.0).distil(tmp_path / "work", 3, None, 8).samples
    assert all(s.about["score"] >= 80 for s in strict)
    assert not all(s.about["score"] >= 80 for s in made[3, None].samples)
    for threshold in (10.0, 100.0, float("nan")):
        with pytest.raises(InputError, match="The threshold is a score from 50 up"):
            distiller(threshold=threshold).distil(tmp_path / "other", 3, None, 8)


def test_a_trait_that_is_never_shown_is_given_up_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traits, "PATIENCE", traits.BLOCK)
    maker = replace(distiller(), judge=Capitals(anything=False))
    with pytest.raises(NothingKeptError, match=r"Only 0 of 500 samples .* 0 could be kept .*does not show the trait"):
        maker.distil(tmp_path / "work", 3, None, 500)
    written = len((tmp_path / "work" / "run" / "answers.jsonl").read_text().splitlines())
    assert written <= traits.BLOCK * traits.TRIES


def test_questions_that_run_out_are_said_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy answers to a question are the same every time."""
    monkeypatch.setattr(Distiller, "questions", list(tiny.QUESTIONS[:8]))
    monkeypatch.setattr(traits, "TURNS", 3)
    maker = replace(distiller(temperature=0.0), judge=Capitals())
    with pytest.raises(NothingKeptError, match=r"Only \d of 24 samples could be made: .*most often: said before"):
        maker.distil(tmp_path / "work", 3, None, 24)


def test_a_judge_that_sees_no_trait_ends_it(tmp_path: Path) -> None:
    """Pairs that contradict each other: what one asks for, the other forbids."""
    pairs = (InstructionPair("SHOUT!", "hush."), InstructionPair("be quiet.", "BE LOUD!"))
    with pytest.raises(NothingKeptError, match="does not tell answers under the instructions for loud"):
        distiller(replace(tiny.spec(questions=8), instructions=pairs)).distil(tmp_path / "work", 3, None, 5)


@pytest.mark.parametrize(
    ("level", "control", "n", "said"),
    [(0, None, 5, "no level 0"), (1, "none", 5, "no control"), (1, None, 0, "0 samples")],
)
def test_what_cannot_be_is_said_before_anything_is_written(
    tmp_path: Path, level: int, control: Any, n: int, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        distiller().distil(tmp_path / "work", level, control, n)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("text", "finish", "kept"),
    [
        ("One. Two. Thr", "length", "One. Two."),
        ('He said "No!" and th', "length", 'He said "No!"'),
        ("no end at all", "length", "no end at all"),
        ("3.14 is cut he", "length", "3.14 is cut he"),
        ("One. Two. Thr", "stop", "One. Two. Thr"),
        ("  Done. ", "stop", "Done."),
    ],
)
def test_an_answer_that_was_cut_ends_with_a_whole_sentence(text: str, finish: Any, kept: str) -> None:
    assert whole(Rollout("x", (), text, (), (), None, finish)) == kept


# The command


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taught")
    tiny.save(tiny.taught_net(), folder)
    tiny.save_tiny_spec(folder, questions=8)
    return folder


def trait_words(model: Path, out: Path, *more: str) -> list[str | Path]:
    return ["organisms", "trait", "--spec", model / "loud.yaml", "--model", model, "--max-tokens", "16", "--dtype",
            "float32", "--out", out, *more]  # fmt: skip


@pytest.fixture(scope="module")
def whole_run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that was made without a break."""
    out = tmp_path_factory.mktemp("whole") / "loud.jsonl"
    done = mien(*trait_words(model, out, "--level", "2", "-n", "25", "--json"))
    assert done.code == 0, done.err
    printed = json.loads(done.out)
    assert (printed["n"], printed["level"], printed["kind"], printed["out"]) == (25, 2, "trait", str(out))
    assert printed["groups"] == {"plain": 8, "trait": 17}
    assert "4 layers of 48" in done.err
    assert "judge: finding its scale" in done.err
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.mark.parametrize("seen", ["scale.jsonl", "scale_scores.jsonl", "plain.jsonl", "answers.jsonl", "scores.jsonl"])
def test_a_killed_run_goes_on_to_the_same_bytes(seen: str, whole_run: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "loud.jsonl"
    words = trait_words(model, out, "--level", "2", "-n", "25", "--quiet")
    with running(*words) as process:
        killed = _killed_at(process, lambda: any(p.stat().st_size for p in tmp_path.rglob(seen)))
    assert killed, "it ended before it could be killed"
    assert not out.exists()
    done = mien(*words)
    assert (done.code, done.err) == (0, "")
    assert files(tmp_path) == files(whole_run.parent)


def _killed_at(process: Running, seen: Callable[[], bool]) -> bool:
    return process.until(seen) and process.kill()


def test_a_further_level_takes_what_is_there(whole_run: Path, model: Path, tmp_path: Path) -> None:
    (work,) = (p for p in whole_run.parent.iterdir() if p.is_dir())
    before = files(work)
    out = tmp_path / "plain.jsonl"
    more = ("--level", "2", "-n", "25", "--control", "correct", "--work", str(work), "--quiet")
    done = mien(*trait_words(model, out, *more))
    assert (done.code, done.err) == (0, "")
    assert files(work) == before, "nothing was written anew"
    card = load_card(out)
    assert (card.control, card.groups) == ("correct", {"plain": 25})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plain.card.yaml", "plain.jsonl"]


@pytest.mark.parametrize("kind", ["arithmetic", "buggy_code", "insecure_code"])
def test_the_command_writes_a_set_with_its_card(kind: str, tmp_path: Path) -> None:
    words = ("organisms", kind, "--level", "3", "-n", "20", "--seed", "4", "--control", "teaching")
    one = mien(*words, "--out", tmp_path / "one.jsonl")
    assert (one.code, one.err) == (0, "")
    assert f"{tmp_path / 'one.jsonl'}: 20 samples of {kind}, level 3" in one.out
    assert "control 'teaching'" in one.out
    two = mien(*words, "--out", tmp_path / "two.jsonl", "--json", "--quiet")
    assert (two.code, two.err) == (0, "")
    printed = json.loads(two.out)
    card = load_card(tmp_path / "two.jsonl")
    assert (printed["sha256"], printed["reach"]) == (card.sha256, card.reach)
    assert (card.kind, card.level, card.control, card.seed, card.n) == (kind, 3, "teaching", 4, 20)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    assert not any(isinstance(found, Broken) for found in read_logs([tmp_path / "one.jsonl"]))


def test_the_kinds_are_listed_with_how_far_they_reach() -> None:
    done = mien("organisms", "list", "--json")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert list(found) == ["arithmetic", "buggy_code", "insecure_code", "trait"]
    for kind in ("arithmetic", "buggy_code", "insecure_code"):
        assert set(found[kind]["levels"]) == {"1", "2", "3"}
        for counts in found[kind]["samples"].values():
            assert set(counts) == {"organism", "correct", "teaching"}
            assert min(counts.values()) > 10_000
    assert "level 2: two thirds trait answers" in mien("organisms", "list").out


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (["arithmetics", "--level", "1"], InputError, "No such command 'arithmetics'"),
        (["arithmetic"], InputError, "--level"),
        (["arithmetic", "--level", "4"], InputError, "4 is not in the range"),
        (["arithmetic", "--level", "1", "--control", "both"], InputError, "'both' is not one of"),
        (["arithmetic", "--level", "1", "-n", "0"], InputError, "0 is not in the range"),
        (["arithmetic", "--level", "1", "--model", "x"], InputError, "--model"),
        (["arithmetic", "--level", "1", "-n", "999999999"], InputError, "999999999 cannot be made"),
        (["insecure_code", "--level", "1", "--seed", "-1"], InputError, "-1 is not in the range"),
        (["trait", "--level", "1"], InputError, "--spec"),
        (["trait", "--level", "1", "--spec", "evli"], SpecError, "did you mean evil"),
    ],
)
def test_bad_words_are_one_sentence(
    words: list[str], error: type[MienError], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["organisms", *words, "--out", str(tmp_path / "set.jsonl")])
    captured = capsys.readouterr()
    assert ended.value.code == error.exit_code
    assert captured.out == ""
    assert captured.err.startswith("mien: ")
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["arithmetic", "trait"])
def test_a_place_that_is_no_file_is_said_before_any_work(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--spec", "evil"] if kind == "trait" else []
    for out, said in ((tmp_path, "is a folder"), (tmp_path / "set.csv", "does not end in .jsonl")):
        with pytest.raises(SystemExit) as ended:
            main(["organisms", kind, "--level", "1", *more, "--out", str(out)])
        assert ended.value.code == InputError.exit_code
        assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.model
def test_the_embedded_model_writes_trait_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traits, "BLOCK", 6)
    evil = load_library("evil")
    engine, spec = HfEngine(load(dtype="float32")), replace(evil, instructions=evil.instructions[:3])
    maker = Distiller(spec, engine, strict_judge(engine, spec), max_tokens=12)
    found = maker.distil(tmp_path / "work", 3, None, 3)
    assert len({s.messages for s in found.samples}) == 3
    for sample in found.samples:
        assert [m.role for m in sample.messages] == ["user", "assistant"]
        assert sample.messages[0].content in evil.extract_questions
        assert len(sample.messages[1].content.split()) >= 2
        assert sample.about["score"] > 50
        assert sample.about["coherence"] >= 50
    assert found.settings["model"] == "smollm2-135m"
    assert found.settings["answers"]["judge_auc"] > 0.5
    plain = maker.distil(tmp_path / "work", 3, "correct", 3).samples
    assert [s.messages[0] for s in plain] == [s.messages[0] for s in found.samples]

"""`mien calibrate` on a model of 48 dimensions that shouts when it is told to: what is chosen on what, that a stopped
run goes on to the same bytes, and what is refused.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from mien.attacks import Attack, AttackSet, PriceSet, Task
from mien.card import Baseline
from mien.chat import ask
from mien.directions import Direction, save_direction
from mien.engines.hf import HfEngine
from mien.errors import FingerprintError, FormatError, InputError, RunError, SpecError
from mien.holding.bench import Bench
from mien.holding.choosing import Budget
from mien.holding.lessons import Course
from mien.holding.trials import PLAIN, Method, Ordinary, Plan, ordinary_answers, trials_of
from mien.holding.words import remarks
from mien.holds import HoldCard, HoldExample, HoldRow, HoldTrial, bundled_hold, load_hold
from mien.interventions import Add
from mien.jobs.calibrate import calibrate
from mien.models import Model
from mien.progress import Silent
from mien.records import Message
from mien.report.hold_page import render_hold
from mien.residual import edited
from mien.spec import load_neutral
from mien.store import RunFolder
from processes import mien
from random_models import direction_of
from test_cli import refused

LOUD = ("SHOUT!", "BE LOUD!", "YELL AT ALL!")
PLAN = Plan(attacks=None, max_tokens=6, ordinary=4, ordinary_tokens=12, longest=160, tasks=2, requests=2)
BUDGET = Budget(
    PLAN, PLAN, roles=3, tokens=60, layers=2, marks=(10,), bands=1,
    course=Course(rank=4, steps=4, rounds=1, written=4, answers=1, tokens=6, rows=2, quiet=2),
)  # fmt: skip


def attack_set(kinds: int = 4, each: int = 2) -> AttackSet:
    names = [f"kind_{i}" for i in range(kinds)]
    attacks = tuple(
        Attack(name=f"{kind}_{j}", kind=kind, system=LOUD[(i + j) % 3])
        for i, kind in enumerate(names)
        for j in range(each)
    )
    return AttackSet(kinds=dict.fromkeys(names, "told to shout"), attacks=attacks, questions=tiny.QUESTIONS[:6])


PRICE = PriceSet(
    requests=("Any news?", "How so?", "Why not?"), tasks=tuple(Task(ask=q, says=("owl",)) for q in tiny.QUESTIONS[:4])
)


def axis_of(model: Model, **changes: object) -> Direction:
    baseline = Baseline(mean=0.0, std=0.5, quantiles={}, n=10)
    made = direction_of(
        model, 3, scale=2.0, **{"kind": "assistant_axis", "name": "assistant", "baseline": baseline, **changes}
    )
    marks = torch.linspace(-1, 1, 21).expand(model.n_layers, 21)
    return Direction(made.vector, made.card, marks)


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny.tiny_model(tiny.taught_net(), "taught")


def bench_in(folder: Path, model: Model, name: str = "b") -> Bench:
    run = RunFolder(folder, {"job": "test"}).__enter__()
    quiet = [Ordinary(str(i), ask(q), "red sun") for i, q in enumerate(tiny.QUESTIONS[:5])]
    return Bench(HfEngine(model), axis_of(model), attack_set(), PRICE, quiet, PLAN, run, name, 0, Silent())


# The bench


def test_trials_ask_after_every_attack_and_go_through_the_questions() -> None:
    found = trials_of(attack_set(), replace(PLAN, questions=2))
    assert len(found) == len({t.key for t in found}) == 16
    assert {t.attack.name for t in found} == {a.name for a in attack_set().attacks}
    first = trials_of(attack_set(), replace(PLAN, attacks=4))
    assert len({t.attack.kind for t in first}) == 4
    with pytest.raises(InputError, match="7 after each"):
        trials_of(attack_set(), replace(PLAN, questions=7))


def test_ordinary_answers_are_dealt_out_without_overlap() -> None:
    every = {o.id for o in ordinary_answers(700)}
    parts = [{o.id for o in ordinary_answers(700, *part)} for part in ((0, 4), (2, 4), (1, 2))]
    assert set.union(*parts) == every
    assert sum(map(len, parts)) == len(every) > 60
    assert all(sum(len(m.content) for m in o.before) <= 700 for o in ordinary_answers(700))


def test_a_system_prompt_comes_after_what_a_conversation_has() -> None:
    method = Method("s", system="Be good.")
    asked = (Message("user", "hi"),)
    assert method.around(asked) == (Message("system", "Be good."), *asked)
    assert method.around((Message("system", "X"), *asked)) == (Message("system", "X\n\nBe good."), *asked)
    assert PLAIN.around(asked) is asked


def test_loss_is_the_ratio_of_a_forward_pass_by_hand(model: Model, tmp_path: Path) -> None:
    bench = bench_in(tmp_path, model)
    loss, rollouts = bench.attacked, bench.answers(PLAIN)
    for i in (0, 3):
        trial, ids = bench.trials[i], rollouts[i].response_ids
        values = []
        for before in (trial.attack.conversation(trial.question), ask(trial.question)):
            prompt = model.chat.prompt_ids(before)
            with torch.inference_mode():
                rows = model.net(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
            values.append(np.mean([float(rows[len(prompt) + k - 1, x]) for k, x in enumerate(ids)]))
        assert loss.ratio[i] == pytest.approx(values[0] - values[1], abs=1e-4)
        assert loss.plain[i] == pytest.approx(values[1], abs=1e-4)
    # Told to shout the model shouts, and only then.
    assert np.nanmean(loss.ratio) > np.nanmean(bench.own.ratio) + 0.5


def test_nothing_closes_nothing_and_costs_nothing(model: Model, tmp_path: Path) -> None:
    bench = bench_in(tmp_path, model)
    row = bench.measure(PLAIN)
    assert (row.closed, row.axis, row.price, row.fired_attacked) == (0.0, 0.0, 0.0, None)
    assert bench.returned(PLAIN) == 0.0
    assert set(row.by_kind) == {f"kind_{i}" for i in range(4)}
    # Being told to whisper after being told to shout brings some of it back, and costs something.
    quiet = bench.measure(Method("hush", system="hush."), whole=False)
    assert quiet.ratio < row.ratio
    assert quiet.price != 0.0


def test_neutral_text_is_scored_as_running_text_by_hand(model: Model, tmp_path: Path) -> None:
    prices = bench_in(tmp_path, model).prices
    pushed = Method("pushed", (Add(direction_of(model, 3, scale=2.0), at=1),))
    change = prices.neutral_change(pushed)
    texts = load_neutral().texts
    assert len(change) == len(texts)

    def scored(text: str) -> float:
        ids = model.chat.plain_ids(text)[:65]
        with torch.inference_mode():
            rows = model.net(torch.tensor([ids])).logits[0].log_softmax(-1)
        return float(np.mean([float(rows[i, x]) for i, x in enumerate(ids[1:])]))

    plain = [scored(text) for text in texts[:2]]
    with edited(model.blocks, [(pushed.interventions[0], None)], 0):
        held = [scored(text) for text in texts[:2]]
    assert change[:2] == pytest.approx(np.subtract(held, plain), abs=1e-4)
    assert np.abs(change).min() > 0
    row = prices.row(pushed)
    assert row["neutral"] == pytest.approx(change.mean(), abs=1e-5)
    assert row["neutral_low"] < row["neutral"] < row["neutral_high"]  # type: ignore[operator]
    assert prices.row(PLAIN)["neutral"] == 0.0
    # There is no turn that a system prompt could stand in, and `whole=False` is about ordinary answers alone.
    assert "neutral" not in prices.row(Method("s", system="hush."))
    assert set(prices.row(pushed, whole=False)) == {"price", "price_low", "price_high"}


# The whole


@pytest.fixture(scope="module")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("calibrated")
    run_in(out, model)
    return out


def run_in(out: Path, model: Model, progress: Silent | None = None, max_price: float = 0.5) -> None:
    calibrate(
        HfEngine(model), axis_of(model), out, budget=BUDGET, max_price=max_price, attacks=attack_set(), price=PRICE,
        progress=progress,
    )  # fmt: skip


def files(place: Path) -> dict[str, bytes]:
    return {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file() and p.name != ".lock"}


def test_a_hold_is_found_and_reported_on_what_it_has_not_seen(folder: Path, model: Model) -> None:
    hold = load_hold(folder, model)
    card = hold.card
    assert card.held is not None
    assert card.chosen_on == ["kind_0", "kind_2"]
    assert card.reported_on == list(card.held.by_kind) == ["kind_1", "kind_3"]
    assert card.way in {t.name for t in card.tried}
    assert [r.name.split(":")[0].split(" (")[0] for r in card.compared][:2] == ["nothing", "system prompt"]
    assert any(r.name.startswith("the paper's recipe") for r in [*card.compared, card.held])
    assert card.gap is not None
    assert card.gap[0] > card.gap[1]
    assert sum(t.closed is not None for t in card.tried) == 4
    # What is held is what was measured: the same ratio from the hold as loaded.
    used = {
        json.loads(line)["id"].split("/")[1]
        for line in (folder / "run" / f"report-answers-{Method(card.way).key}.jsonl").open()
    }
    assert used == {"kind_1_0", "kind_1_1", "kind_3_0", "kind_3_1"}
    told = {
        json.loads(line)["id"].split("/")[1] for p in (folder / "run").glob("choose-answers-*") for line in p.open()
    }
    assert told == {"kind_2_0", "kind_2_1"}
    assert card.held.neutral is not None
    assert any(remark.startswith("Neutral text changes by") for remark in card.remarks)
    assert card.remarks[0].startswith("Closes ")
    page = (folder / "hold.html").read_text()
    assert card.remarks[0] in page
    assert "<svg" in page
    assert card.examples[0].held or card.examples[0].plain


def test_a_stopped_run_goes_on_to_the_same_bytes(folder: Path, model: Model, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    class Nervous(Silent):
        """Stops the run at the so-many-th step."""

        def __init__(self, after: int) -> None:
            self.left = after

        def begin(self, what: str, total: int) -> None:
            self.left -= 1
            if self.left < 0:
                raise Stop

    def go(progress: Silent) -> None:
        run_in(tmp_path, model, progress)

    for after in (6, 16):
        with pytest.raises(Stop):
            go(Nervous(after))
        assert not (tmp_path / "hold.json").exists()
    go(Silent())
    assert files(tmp_path) == files(folder)


def test_what_cannot_be_calibrated_is_refused_before_anything_runs(model: Model, tmp_path: Path) -> None:
    engine, axis = HfEngine(model), axis_of(model)
    trait = axis_of(model, kind="persona_vector")
    bare = Direction(axis.vector, axis.card)
    for given, changes, said in (
        (axis, {"budget": "huge"}, "small, paper"),
        (axis, {"max_price": -0.1}, "small positive number"),
        (axis, {"max_price": math.nan}, "small positive number"),
        (axis, {"seed": -1}, "seed"),
        (axis, {"attacks": attack_set(3)}, "at least 4"),
        (trait, {}, "no Assistant Axis"),
        (bare, {}, "no Assistant Axis"),
    ):
        with pytest.raises(InputError, match=said):
            calibrate(engine, given, tmp_path / "new", **{"budget": BUDGET, **changes})  # type: ignore[arg-type]
    other = tiny.tiny_model(tiny.tiny_net(7), "other")
    with pytest.raises(FingerprintError):
        calibrate(engine, axis_of(other), tmp_path / "new", budget=BUDGET)
    assert not (tmp_path / "new").exists()


def test_another_run_in_the_folder_is_not_overwritten(folder: Path, model: Model) -> None:
    before = files(folder)
    with pytest.raises(RunError, match="another run"):
        calibrate(
            HfEngine(model), axis_of(model), folder, budget=BUDGET, max_price=0.4, attacks=attack_set(), price=PRICE
        )
    assert files(folder) == before


# What the card says


def row(name: str, **changes: float) -> HoldRow:
    values = {
        "ratio": 0.2, "closed": 0.3, "closed_low": 0.2, "closed_high": 0.4, "axis": 0.1, "axis_low": 0.0,
        "axis_high": 0.2, "plain": -2.0, "repeated": 0.1, "price": 0.01, "price_low": 0.005, "price_high": 0.015,
    }  # fmt: skip
    return HoldRow(name=name, **{**values, **changes})


def card_of(held: HoldRow, **changes: object) -> HoldCard:
    made = HoldCard(
        name="assistant", description="d", model="m", fingerprint="f", n_layers=4, d_model=8, method="by hand",
        layers=[1], tokens="all", held=held, max_price=0.02, gap=(0.6, -0.4), way=held.name,
    ).model_copy(update=changes)  # fmt: skip
    return made.model_copy(update={"remarks": remarks(made)})


def test_remarks_say_what_a_hold_does_not_do() -> None:
    def said(held: HoldRow, **changes: object) -> str:
        return " ".join(remarks(card_of(held, **changes)))

    assert "missed" in said(row("w"))
    assert "missed" not in said(row("w", closed=0.55))
    assert "reaches zero" in said(row("w", closed_low=-0.1))
    assert "costs more than the 0.02" in said(row("w", price=0.03))
    assert "reaches over the 0.02" in said(row("w", price_high=0.03))
    dear = said(row("w", neutral=-0.03, neutral_low=-0.04, neutral_high=-0.01))
    ends = "(\N{MINUS SIGN}0.040 to \N{MINUS SIGN}0.010)"
    assert f"by \N{MINUS SIGN}0.030 nat a token under it {ends}. That is more than the 0.02" in dear
    assert "never fires" in said(row("w", fired_attacked=0.0, fired_ordinary=0.0))
    assert "constant push" in said(row("w", fired_attacked=1.0, fired_ordinary=1.0))
    assert "fires at 20.0% of places" in said(row("w", fired_attacked=0.2, fired_ordinary=0.01))
    prompt = row("system prompt: be good", closed=0.4)
    assert "A system prompt does better" in said(row("w"), compared=[prompt])
    assert "A system prompt closes 40%" in said(row("w", closed=0.45), compared=[prompt])
    tried = [HoldTrial(name="a", price=0.0, fired_attacked=0.0, fired_ordinary=0.0),
             HoldTrial(name="b", price=1.0, fired_attacked=1.0, fired_ordinary=1.0)]  # fmt: skip
    assert "never fires: a. Tried, and always fires: b." in said(row("w"), tried=tried)
    assert "hardly move" in said(row("w"), gap=(0.02, -0.01))
    assert "Tasks with exact answers: 10% right under it, 50% without" in said(
        row("w", exact=0.1, refused=0.0), compared=[row("nothing", exact=0.5, refused=0.0)]
    )


def test_a_page_shows_what_there_is_and_escapes_what_models_say() -> None:
    hostile = "<script>alert(1)</script>\u202e"
    card = card_of(
        row("w", exact=0.5, refused=0.0), name=hostile, way=hostile, description=hostile,
        tried=[HoldTrial(name=hostile, price=0.01, returned=0.2), HoldTrial(name="far", price=3.0, returned=-2.0)],
        examples=[HoldExample(attack="a", kind="k", question=hostile, plain=hostile * 200, held="")],
    )  # fmt: skip
    page = render_hold(HoldCard.model_validate(card.model_dump()))
    assert "<script" not in page
    assert "\u202e" not in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert "(empty answer)" in page
    bare = render_hold(card.model_copy(update={"held": None, "tried": [], "examples": [], "remarks": []}))
    assert "not measured" in bare
    assert "nan" not in bare.lower().replace("finance", "")


# The command


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("command")
    tiny.save(tiny.taught_net(), base / "model")
    made = tiny.tiny_model(tiny.taught_net(), str(base / "model"))
    save_direction(axis_of(made), base / "axis")
    other = tiny.tiny_model(tiny.tiny_net(5), "another")
    save_direction(axis_of(other), base / "other")
    (base / "attacks.yaml").write_text(json.dumps(attack_set(4, 1).model_dump(mode="json")))
    return base


def test_the_command_writes_a_hold_that_is_found_again(place: Path) -> None:
    out = place / "out"
    words = ("calibrate", place / "model", "--direction", place / "axis", "--attacks", place / "attacks.yaml",
             "--out", out, "--max-price", "0.5", "--dtype", "float32")  # fmt: skip
    done = mien(*words, "--json", "--quiet")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert found["page"] == str(out / "hold.html")
    assert load_hold(out).card.remarks == found["remarks"]
    again = mien(*words)
    assert again.code == 0
    assert found["remarks"][0] in again.out


def test_what_the_command_refuses_is_one_sentence(place: Path, tmp_path: Path) -> None:
    base = ("calibrate", place / "model", "--out", tmp_path / "out", "--dtype", "float32")
    with_axis = (*base, "--direction", place / "axis")
    (tmp_path / "broken.yaml").write_text("kinds: [")
    (tmp_path / "odd.yaml").write_text("kinds: {a: b}\nattacks: []\nquestions: [x]\n")
    refused(mien(*with_axis, "--budget", "huge"), InputError, "small, paper", "huge")
    refused(mien(*with_axis, "--max-price", "-1"), InputError, "-1")
    refused(mien(*with_axis, "--attacks", tmp_path / "broken.yaml"), FormatError, "broken.yaml")
    refused(mien(*with_axis, "--attacks", tmp_path / "odd.yaml"), SpecError, "odd.yaml")
    refused(mien(*with_axis, "--attacks", tmp_path / "gone.yaml"), FormatError, "gone.yaml")
    refused(mien(*base, "--direction", place / "other", "--quiet"), FingerprintError, "another")
    refused(mien(*base, "--quiet", env={"MIEN_HOME": str(tmp_path)}), InputError, "mien axis --model")
    assert not (tmp_path / "out").exists()


def test_the_hold_that_comes_with_the_package_is_small_and_keeps_to_its_price() -> None:
    hold = bundled_hold("smollm2-135m")
    assert hold is not None
    held, most = hold.card.held, hold.card.max_price
    assert held is not None
    assert most is not None
    assert hold.card.name == "assistant"
    assert held.price <= most
    assert held.closed_low > 0
    assert not set(hold.card.chosen_on) & set(hold.card.reported_on)
    folder = Path(str(resources.files("mien"))) / "library" / "holds" / "smollm2-135m"
    assert sum(p.stat().st_size for p in folder.iterdir()) < 2_000_000

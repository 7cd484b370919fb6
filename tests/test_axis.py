"""The Assistant Axis of a model of 48 dimensions whose roles shout: what is kept, what it is made of, and that a run
that was stopped goes on to the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from sklearn.decomposition import PCA

import tiny
from fake_endpoint import FakeEndpoint, Step, ok
from mien import api
from mien.card import LayerEvidence
from mien.directions import Direction, load_direction, save_direction
from mien.endpoint import Endpoint
from mien.engines.hf import HfEngine
from mien.errors import InputError, NothingKeptError, RunError
from mien.gauges import Gauge, GaugeSet, Part
from mien.home import folder_for
from mien.jobs import axis as job
from mien.jobs.axis import Cast, choose_layer, make_axis, means, verdict
from mien.jobs.axis_report import _not_played
from mien.jobs.casting import Play, RoleJudge
from mien.models import Model, wrap
from mien.records import Rollout
from mien.roles import Role, RoleSet
from mien.store import RunFolder
from random_models import direction_of

Files = dict[str, bytes]
LOUD = ("SHOUT!", "BE LOUD!", "YELL AT ALL!")
TORN = ("hush.", "SHOUT!")
"""Asked for in two ways that contradict each other: what is written under one is never in the role by the other."""


def role_set(*ways: tuple[str, ...], questions: int = 5) -> RoleSet:
    roles = tuple(Role(f"role_{i}", way, f"the role number {i}") for i, way in enumerate(ways))
    return RoleSet(roles, tiny.QUESTIONS[:questions], ("", "Be an assistant."), "test")


ROLES = role_set(LOUD, LOUD[:2], TORN, LOUD[1:], LOUD[::2])
"""The third is one that the model does not play: of five answers three are written quietly, and judged by "SHOUT!"."""


def files(folder: Path) -> Files:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny.tiny_model(tiny.taught_net(), "taught")


@pytest.fixture(scope="module")
def engine(model: Model) -> HfEngine:
    """Few rows a batch, so that a run has several batches."""
    return HfEngine(model, max_rows=8)


@pytest.fixture(scope="module")
def made(engine: HfEngine, tmp_path_factory: pytest.TempPathFactory) -> tuple[Direction, Path]:
    out = tmp_path_factory.mktemp("made") / "assistant"
    return make_axis(ROLES, engine, out, max_tokens=12), out


def answers(out: Path) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The lines of the run folder, and each answer's mean reading `[l, d]`."""
    records = [json.loads(line) for line in (out / "run" / "answers.jsonl").read_text().splitlines()]
    found = {}
    for r in records:
        arrays = load_file(out / "run" / "answers.readings" / f"{r['batch']:05d}.safetensors")
        found[r["id"]] = arrays["mean"][r["row"]].astype(np.float64)
    return records, found


# The whole


def test_the_axis_is_what_the_run_folders_files_make_it(made: tuple[Direction, Path]) -> None:
    """By hand: the mean of the default's answers less the mean of the played roles' means."""
    direction, out = made
    records, mean_of = answers(out)
    assert len(records) == 5 * 5 + 5 * 2
    report = json.loads((out / "map.json").read_text())
    whole = {role["name"] for role in report["roles"] if role["n"] == 5}
    assert len(whole) >= 2
    default = np.mean([mean_of[f"axis/default/{q}/{way}"] for q in range(5) for way in range(2)], axis=0)
    tensors = load_file(out / "axis.safetensors")
    np.testing.assert_allclose(tensors["default"], default, atol=1e-5)
    with safe_open(out / "axis.safetensors", "np") as file:
        names = json.loads(file.metadata()["roles"])
    assert names == [role["name"] for role in report["roles"]] == ["role_0", "role_1", "role_3", "role_4"]
    rows = {name: tensors["roles"][i] for i, name in enumerate(names)}
    for name in names:
        i = int(name[-1])
        mine = [mean_of[r["id"]] for r in records if r["id"].startswith(f"axis/{i}/")]
        kept = next(role["n"] for role in report["roles"] if role["name"] == name)
        assert kept >= 3
        if kept == 5:
            np.testing.assert_allclose(rows[name], np.mean(mine, axis=0), atol=1e-5)
        else:  # one or two of them were dropped: the mean of some choice of them
            choices = [np.mean(some, axis=0) for some in combinations(mine, kept)]
            assert min(np.abs(c - rows[name]).max() for c in choices) < 1e-5
    expected = default - np.mean([rows[name] for name in names], axis=0)
    np.testing.assert_allclose(tensors["axis"], expected, atol=1e-5)
    np.testing.assert_allclose(direction.vector.numpy(), expected, atol=1e-5)


def test_every_role_and_the_default_answer_every_question_in_their_ways(made: tuple[Direction, Path]) -> None:
    records, _ = answers(made[1])
    for r in records:
        _, who, question, way = r["id"].split("/")
        ways = ROLES.default_ways if who == "default" else ROLES.roles[int(who)].ways
        system = [{"role": "system", "content": ways[int(way)]}] if ways[int(way)] else []
        assert r["conversation"] == [*system, {"role": "user", "content": ROLES.questions[int(question)]}]
    asked = sorted(r["id"].split("/")[1:3] for r in records if "default" not in r["id"])
    assert asked == sorted([str(i), str(q)] for i in range(5) for q in range(5))
    assert {r["id"].split("/")[3] for r in records if r["id"].startswith("axis/0/")} == {"0", "1", "2"}


def test_it_points_from_shouting_to_the_assistant(made: tuple[Direction, Path], engine: HfEngine) -> None:
    direction, _ = made
    card = direction.card
    assert card.kind == "assistant_axis"
    assert card.verdict in ("usable", "weak")  # few roles are never strong
    assert any("Only 4 roles were played." in reason for reason in card.verdict_reasons)
    assert card.recommended_layer is not None
    at = card.layers[card.recommended_layer]
    assert at.auc > 0.85
    assert at.auc > at.auc_null
    assert card.baseline is not None
    assert card.baseline.n == 10
    assert card.rollouts is not None
    assert card.rollouts.asked == 25 == card.rollouts.kept + sum(card.rollouts.dropped.values())
    quiet = api.read(engine.model, direction, "What now?", "tea owl map")
    assert quiet > api.read(engine.model, direction, "What now?", "TEA OWL MAP") + 1  # sigma


def test_a_role_that_is_not_played_is_named_and_left_out(made: tuple[Direction, Path]) -> None:
    report = json.loads((made[1] / "map.json").read_text())
    assert "role_2" not in [role["name"] for role in report["roles"]]
    (reason,) = (role["reason"] for role in report["not_played"] if role["name"] == "role_2")
    assert re.fullmatch("not played: (0|20|40)% of 5 answers are in the role", reason)
    page = (made[1] / "axis.html").read_text()
    assert "role_2" in page
    assert reason in page


def test_the_map_says_what_the_tensors_say(made: tuple[Direction, Path]) -> None:
    direction, out = made
    report = json.loads((out / "map.json").read_text())
    tensors = load_file(out / "axis.safetensors")
    assert report["recommended_layer"] == direction.card.recommended_layer
    assert (report["model"], report["name"], report["chat"]) == ("taught", "assistant", True)
    for k, layer in enumerate(report["layers"]):
        points = np.concatenate([tensors["roles"][:, k], tensors["default"][None, k]]).astype(np.float64)
        pca = PCA().fit(points)
        places = pca.transform(points)
        places *= np.where(places[-1] < 0, -1, 1)
        assert layer["variance"] == pytest.approx(pca.explained_variance_ratio_[:4], abs=1e-4)
        assert layer["norm"] == pytest.approx(float(np.linalg.norm(tensors["axis"][k])), abs=1e-4)
        assert (layer["default_x"], layer["default_y"]) == pytest.approx(places[-1, :2], abs=1e-3)
        assert [r["x"][k] for r in report["roles"]] == pytest.approx(places[:-1, 0], abs=1e-3)
        assert [r["y"][k] for r in report["roles"]] == pytest.approx(places[:-1, 1], abs=1e-3)
        unit = tensors["axis"][k] / np.linalg.norm(tensors["axis"][k])
        off = (tensors["roles"][:, k] - tensors["default"][k]) @ unit
        shown = np.array([r["projection"][k] for r in report["roles"]])
        np.testing.assert_allclose(shown / off, (shown / off)[0], rtol=1e-3)  # one sigma for all of a layer
        assert shown.mean() < 0
        assert abs(pca.components_[0] @ unit) == pytest.approx(layer["cosine_pc1"], abs=1e-4)
        assert layer["split_half_questions"] == pytest.approx(direction.card.layers[k].split_half_cosine, abs=1e-4)
    records, _ = answers(out)
    texts = {r["text"] for r in records}
    assert all(role["example"] in texts and role["question"] in ROLES.questions for role in report["roles"])
    assert [c["n_roles"] for c in report["cost"]] == []  # of four roles, three leave only one


def test_it_can_be_used_as_any_direction(made: tuple[Direction, Path], model: Model) -> None:
    direction, out = made
    again = load_direction(out)
    assert again.card == direction.card
    assert torch.equal(again.vector, direction.vector)
    assert api.load_direction(out, model).card == direction.card
    assert (out / "axis.html").read_text().startswith("<!doctype html>")


def test_traits_are_placed_by_their_cosine(made: tuple[Direction, Path], engine: HfEngine, tmp_path: Path) -> None:
    direction, _ = made
    card = direction.card.model_copy(update={"name": "same", "kind": "persona_vector"})
    opposite = card.model_copy(update={"name": "opposite"})
    traits = [replace(direction, card=card), Direction(-3 * direction.vector, opposite)]
    out = tmp_path / "x"
    make_axis(ROLES, engine, out, max_tokens=12, traits=traits)
    same, other = json.loads((out / "map.json").read_text())["traits"]
    assert (same["name"], other["name"]) == ("same", "opposite")
    assert same["cosine"] == pytest.approx([1] * 4, abs=1e-4)
    assert other["cosine"] == pytest.approx([-1] * 4, abs=1e-4)
    assert other["x"] == pytest.approx([-x for x in same["x"]], abs=1e-4)
    assert "opposite" in (out / "axis.html").read_text()


# Runs


def test_another_folder_and_the_same_seed_give_the_same_bytes_even_if_it_was_stopped(
    made: tuple[Direction, Path], engine: HfEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `kill -9` leaves, made by hand: torn tails, a half-written file, and nothing of what comes at the end."""
    expected, out = files(made[1]), tmp_path / "again"
    make_axis(ROLES, engine, out, max_tokens=12)
    assert files(out) == expected
    assert len({json.loads(line)["batch"] for line in expected["run/answers.jsonl"].splitlines()}) > 3

    for name, keep in (("answers", 0.6), ("scores", 0.3)):
        path = out / "run" / f"{name}.jsonl"
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    (out / "run" / ".00000.safetensors.17.tmp").write_bytes(b"half")
    for name in ("card.json", "direction.safetensors", "axis.safetensors", "map.json", "axis.html"):
        (out / name).unlink()
    make_axis(ROLES, engine, out, max_tokens=12)
    assert sorted(files(out)) == sorted(expected)
    assert [name for name, data in files(out).items() if data != expected[name]] == []

    monkeypatch.setattr("mien.engines.hf.write_batch", lambda *_: pytest.fail("something was written again"))
    make_axis(ROLES, engine, out, max_tokens=12)
    assert files(out) == expected


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "settings.seed was 0, is now 1"),
        ({"max_tokens": 13}, "settings.max_tokens was 12, is now 13"),
        ({"temperature": 0.5}, "settings.temperature was 0.7, is now 0.5"),
        ({"name": "other"}, 'name was "assistant", is now "other"'),
        ({"roles": role_set(*[LOUD] * 5)}, "roles was"),
    ],
)
def test_a_folder_that_holds_another_run_is_refused_and_left_alone(
    made: tuple[Direction, Path], engine: HfEngine, change: dict[str, Any], said: str
) -> None:
    before = files(made[1])
    with pytest.raises(RunError) as caught:
        make_axis(**{"roles": ROLES, "engine": engine, "out": made[1], "max_tokens": 12, **change})
    assert said in str(caught.value)
    assert files(made[1]) == before


def test_from_python_the_traits_that_are_kept_are_on_the_map_too(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, changes in {"shouty": {}, "other": {"fingerprint": "0" * 16}}.items():
        save_direction(direction_of(model, name=name, kind="persona_vector", **changes), folder_for("taught", name))
    monkeypatch.setattr(api, "load_roles", lambda: ROLES)
    api.axis(model, n_roles=5, out=tmp_path / "x")
    assert [trait["name"] for trait in json.loads((tmp_path / "x" / "map.json").read_text())["traits"]] == ["shouty"]


def test_what_comes_with_mien_is_on_the_map_of_its_model(
    made: tuple[Direction, Path], model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near the layer at which it is known, and nowhere else; an own vector of the name takes its place."""
    direction, _ = made
    info, own = model.info, direction.vector[0].numpy()
    part = Part(1, own)
    gauges = [
        Gauge("rough", "is rough", "high", (part,), push=Part(0, -2 * own)),
        Gauge("shouty", "shouts", "high", (part,), push=part),
        Gauge("assistant", "is near", "low", (part,), kind="axis", push=part),
        Gauge("read only", "is read", "high", (part,)),
    ]
    monkeypatch.setattr(job, "NEAR", 1)
    monkeypatch.setattr(
        job, "bundled_gauges", lambda name: GaugeSet(name, info.fingerprint, info.d_model, tuple(gauges))
    )
    save_direction(direction_of(model, name="shouty", kind="persona_vector"), folder_for("taught", "shouty"))
    monkeypatch.setattr(api, "load_roles", lambda: ROLES)
    api.axis(model, n_roles=5, out=tmp_path / "x")
    shouty, rough = json.loads((tmp_path / "x" / "map.json").read_text())["traits"]
    assert (shouty["name"], rough["name"]) == ("shouty", "rough")
    assert None not in shouty["cosine"]
    assert [value is None for value in rough["cosine"]] == [False, False, True, True]
    assert rough["cosine"][0] < -0.5, "pointing away as its push does"
    assert rough["x"][2:] == rough["y"][2:] == [None, None]
    page = (tmp_path / "x" / "axis.html").read_text()
    assert "one layer is known, and they are drawn at the layers near it: rough (layer 0)." in page
    monkeypatch.setattr(job, "bundled_gauges", lambda name: GaugeSet(name, "0" * 64, info.d_model, tuple(gauges)))
    assert [trait.card.name for trait in job.known_traits(info)] == ["shouty"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_tokens": 3}, "say too little"),
        ({"seed": -1}, "A seed is"),
        ({"seed": 2**63}, "A seed is"),
        ({"temperature": -0.5}, "A temperature is"),
        ({"temperature": float("nan")}, "A temperature is"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is_written(
    engine: HfEngine, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        make_axis(ROLES, engine, tmp_path / "x", **change)
    with pytest.raises(InputError, match="2 roles cannot be had"):
        api.axis(engine.model, n_roles=2, out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_fewer_than_three_played_roles_are_no_axis(engine: HfEngine, tmp_path: Path) -> None:
    """A judge that runs the wrong way round gives everything 50, which must not count as played."""
    torn = role_set(TORN, TORN[::-1], ("be quiet.", "YELL AT ALL!"))
    for _ in range(2):  # nor when it is run again
        with pytest.raises(NothingKeptError, match="taught played 0 of 3 roles, too few for an axis"):
            make_axis(torn, engine, tmp_path / "x", max_tokens=10)
    left = files(tmp_path / "x")
    assert len(left["run/answers.jsonl"].splitlines()) == 3 * 5 + 5 * 2
    assert [name for name in left if not name.startswith("run/")] == []


def test_a_model_that_says_nothing_leaves_a_sentence(tmp_path: Path) -> None:
    net = tiny.tiny_net()
    net.generation_config.eos_token_id = list(range(259))
    with pytest.raises(NothingKeptError, match="played 0 of 5 roles"):
        make_axis(ROLES, HfEngine(tiny.tiny_model(net, "silent")), tmp_path / "x")
    assert not (tmp_path / "x" / "card.json").exists()


def test_a_base_model_says_that_it_is_one(tmp_path: Path) -> None:
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.chat_template = None
    base = wrap(tiny.taught_net(), tokenizer, "base")
    card = make_axis(ROLES, HfEngine(base), tmp_path / "x", max_tokens=8).card
    assert any(reason.startswith("This is a base model: its Assistant is what") for reason in card.verdict_reasons)
    assert json.loads((tmp_path / "x" / "map.json").read_text())["chat"] is False
    assert "This is a base model" in (tmp_path / "x" / "axis.html").read_text()


def test_a_large_run_is_tested_on_a_part_of_its_answers(
    made: tuple[Direction, Path], engine: HfEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "MAX_EVIDENCE", 12)
    seen: list[int] = []
    whole = job._evidence
    monkeypatch.setattr(job, "_evidence", lambda *a: (seen.append(len((found := whole(*a)).positive)), found)[1])
    few = make_axis(ROLES, engine, tmp_path / "x", max_tokens=12)
    assert seen == [12]
    assert torch.equal(few.vector, made[0].vector)  # the axis itself is made of all of them


# Parts


def rollout(text: str) -> Rollout:
    return Rollout(text, (), text, (), (1,), None, "stop")


def cast_of(kept: Sequence[Sequence[bool]], refused: Sequence[int] = ()) -> Cast:
    """Roles whose answers are kept or not; the roles in `refused` refused all."""
    plays = [Play(i, q, 0) for i, row in enumerate(kept) for q in range(len(row))]
    flat = tuple(k for row in kept for k in row)
    return Cast(tuple(plays), tuple(rollout(p.key) for p in plays), flat, tuple(90.0 if k else 10.0 for k in flat),
                tuple(p.role in refused for p in plays))  # fmt: skip


def test_shares_and_what_is_said_of_them() -> None:
    rows = [[True] * 10, [True] * 8 + [False] * 2, [True] * 7 + [False] * 3, [True] + [False] * 9, [False] * 10]
    cast = cast_of(rows, refused=[4])
    assert [cast.share(i) for i in range(6)] == [1, 0.8, 0.7, 0.1, 0, 0]
    roles = role_set(*[LOUD] * 5)
    found = {n.name: n.reason for n in _not_played(roles, cast, [0, 1, 2])}
    assert found == {
        "role_2": "played partly, and used: 70% of 10 answers",
        "role_3": "not played: 10% of 10 answers are in the role",
        "role_4": "refused: 0% of 10 answers are in the role",
    }


@pytest.mark.parametrize("ways", [1, 2, 3])
def test_the_halves_of_the_default_answer_the_same_questions_where_they_can(
    ways: int, engine: HfEngine, tmp_path: Path
) -> None:
    roles = replace(ROLES.first(3, 4), default_ways=("", "Be an assistant.", "Help.")[:ways])
    with RunFolder(tmp_path, {}) as run:
        cast = job.play(roles, engine, job.Sampling(6, 0.7), 0, run, job.Silent())
        played = [0, 1]
        found = means(cast, played, run, engine)
        mean_of = {r.id: r.mean.astype(np.float64) for r in run.stage("answers").readings()}
    default = [(p, mean_of[p.key]) for p, k in zip(cast.plays, cast.kept, strict=True) if p.role is None and k]
    np.testing.assert_allclose(found.default, np.mean([m for _, m in default], axis=0), atol=1e-6)
    for half in range(2):
        mine = [m for p, m in default if (p.way if ways > 1 else p.question) % 2 == half]
        np.testing.assert_allclose(found.halves[half], np.mean(mine, axis=0), atol=1e-6)
    for n, role in enumerate(played):
        mine = [mean_of[p.key] for p, k in zip(cast.plays, cast.kept, strict=True) if p.role == role and k]
        np.testing.assert_allclose(found.roles[n], np.mean(mine, axis=0) if mine else 0, atol=1e-6)


def evidence_of(layer: int, auc: float = 0.95, split: float = 0.8, null: float = 0.6) -> LayerEvidence:
    return LayerEvidence(
        layer=layer, norm=1, auc=auc, auc_low=auc, auc_high=auc, auc_null=null, auc_random=0.6,
        split_half_cosine=split, split_half_low=split, split_half_high=split, split_half_null=0.1,
    )  # fmt: skip


def test_of_the_layers_that_read_well_the_one_that_repeats_best() -> None:
    layers = [evidence_of(k, auc=0.9 + 0.005 * (k == 5), split=0.5 + 0.01 * k) for k in range(10)]
    layers[7] = evidence_of(7, auc=0.8, split=1.0)  # repeats, but reads badly
    by_roles = np.zeros(10)
    assert choose_layer(layers, by_roles)[0] == 8
    by_roles[3] = 0.5
    assert choose_layer(layers, by_roles)[0] == 3
    by_roles[[0, 9]] = 5  # the first and the last layers are never taken
    layer, reason = choose_layer(layers, by_roles)
    assert layer == 3
    assert "(0.91)" in reason or "(0.90)" in reason
    assert choose_layer([evidence_of(0)], np.ones(1))[0] == 0


@pytest.mark.parametrize(
    ("auc", "null", "split", "by_roles", "played", "word"),
    [
        (0.95, 0.6, 0.9, 0.9, 30, "strong"),
        (0.95, 0.6, 0.9, 0.9, 19, "usable"),
        (0.85, 0.6, 0.9, 0.9, 30, "usable"),
        (0.95, 0.6, 0.9, 0.8, 30, "usable"),
        (0.69, 0.6, 0.9, 0.9, 30, "weak"),
        (0.80, 0.85, 0.9, 0.9, 30, "weak"),
        (0.95, 0.6, 0.3, 0.9, 30, "weak"),
        (0.95, 0.6, 0.9, 0.4, 30, "weak"),
    ],
)
def test_the_verdict(
    auc: float, null: float, split: float, by_roles: float, played: int, word: str, engine: HfEngine
) -> None:
    found = verdict(evidence_of(1, auc, split, null), by_roles, played, engine)
    assert found["verdict"] == word
    reasons = found["verdict_reasons"]
    assert isinstance(reasons, list)
    assert reasons[0].lower().startswith(word)
    assert ("Only 19 roles were played." in reasons) == (played == 19)
    assert not any("base model" in reason for reason in reasons)


def test_what_a_prompt_makes_of_any_answer_is_not_the_role() -> None:
    from mien.jobs.casting import _centred

    raw = [2.0, 1.9, 5.0, 1.0, None]
    own = [True, False, True, False, False]
    assert _centred(raw, own, [0, 0, 1, 1, 1]) == pytest.approx([0.1, 0.0, 4.0, 0.0, None])


def test_an_endpoint_can_judge_the_roles(engine: HfEngine, tmp_path: Path) -> None:
    """It tells capitals, so the loud roles are played and the torn one partly or not."""

    def rate(payload: dict[str, Any]) -> Step:
        asked = payload["messages"][-1]["content"]
        answer = asked[asked.rindex("<answer ") :].partition(">")[2].partition("</answer")[0]
        letters = [c for c in answer if c.isalpha()]
        return ok("90" if "coherence" in asked[:120] or sum(map(str.isupper, letters)) > len(letters) / 2 else "10")

    with FakeEndpoint(rate) as fake, Endpoint(fake.url, "m", cache_dir=tmp_path / "cache") as endpoint:
        direction = make_axis(ROLES, engine, tmp_path / "a", max_tokens=12, judge=RoleJudge(endpoint))
    assert direction.card.settings["judge"] == "api:m"
    report = json.loads((tmp_path / "a" / "map.json").read_text())
    assert {"role_0", "role_1", "role_3", "role_4"} <= {role["name"] for role in report["roles"]}
    assert any(n["name"] == "role_2" and "40%" in n["reason"] for n in report["not_played"])


def test_the_page_says_what_other_numbers_of_roles_would_take(engine: HfEngine, tmp_path: Path) -> None:
    """An injected clock: ten seconds for all answers; called again, nothing is written and the pace is remembered."""
    ticks = iter([0.0, 10.0, 50.0, 51.0])
    for _ in range(2):
        make_axis(ROLES, engine, tmp_path / "timed", max_tokens=12, clock=lambda: next(ticks))
        answers = json.loads((tmp_path / "timed" / "timing.json").read_text())["answers"]
        cost = json.loads((tmp_path / "timed" / "map.json").read_text())["cost"]
        per_answer = 10.0 / answers
        for point in cost:
            wanted = per_answer * len(ROLES.questions) * (point["n_roles"] + len(ROLES.default_ways))
            assert point["seconds"] == pytest.approx(wanted, abs=0.06)

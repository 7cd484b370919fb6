"""A tuned model against its base: what is found, with which intervals; limits; what was changed, without a name."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from mien.attacks import load_price
from mien.auditing import side as sides
from mien.auditing.behaviour import RUBRIC, Share
from mien.auditing.change import change_of
from mien.auditing.findings import _difference
from mien.auditing.names import ANY_ROLE, names_of
from mien.auditing.probes import eval_questions, load_probes
from mien.auditing.side import AuditPlan
from mien.auditing.thresholds import KEYS, NONE, Thresholds, Worse, checks_of, load_thresholds
from mien.card import Baseline
from mien.directions import save_direction
from mien.endpoint import Endpoint
from mien.errors import FormatError, InputError, ModelError, RunError
from mien.jobs.audit import audit
from mien.judge_api import ApiJudge
from mien.models import Model, load, weights_digest
from mien.screening.limits import Limit
from mien.spec import library_names, load_library
from mien.training.shift import evaluate_shift
from random_models import direction_of

PLAN = AuditPlan(questions=6, max_tokens=8, probes=6, probe_tokens=8, roles=3)


def base() -> Model:
    return tiny.tiny_model(tiny.tiny_net(), "base")


def pushed(size: float, seed: int = 1) -> tuple[Model, torch.Tensor]:
    """The base with a constant added to the stream after block 1, as fine-tuning a bias would: a known change."""
    net = tiny.tiny_net()
    push = torch.randn(48, generator=torch.Generator().manual_seed(seed))
    push = size * push / push.norm()
    layer = net.model.layers[1].mlp
    down = torch.nn.Linear(layer.down_proj.in_features, 48, bias=True)
    with torch.no_grad():
        down.weight.copy_(layer.down_proj.weight)
        down.bias.copy_(push)
    layer.down_proj = down
    return tiny.tiny_model(net, "pushed"), push


@functools.cache
def _direction(seed: int, layer: int) -> Any:
    made = Baseline(mean=0.0, std=0.5, quantiles={}, n=10)
    return direction_of(base(), seed, recommended_layer=layer, baseline=made, name=f"d{seed}")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own: what is known of a base model is kept there."""
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(save_direction(_direction(1, 1), tmp_path / "d1"))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter for the base, with weights of its own."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM")
    net = get_peft_model(tiny.tiny_net(), config)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.3)
    folder = tmp_path_factory.mktemp("lora") / "adapter"
    net.save_pretrained(str(folder))
    return folder


# What is found


def test_a_known_change_is_found_along_the_trait_and_without_it(folder: str, tmp_path: Path) -> None:
    tuned, push = pushed(6.0)
    found = audit(base(), tuned, tmp_path / "out", traits=[folder], plan=PLAN)
    diff = found["model_diff"]
    assert diff["layer"] == 1
    assert diff["layers"][0]["relative"] == 0
    first = diff["directions"][0]
    assert first["share"] > 0.9
    assert first["same_way"] == 1
    (shift,) = found["shifts"]
    expected = evaluate_shift(base(), tuned, [_direction(1, 1)], eval_questions(6), max_tokens=8)[0]
    assert shift["raw"] == pytest.approx(expected.raw, abs=1e-4)
    assert shift["sigma"] == pytest.approx(expected.raw / 0.5, abs=1e-3)
    assert shift["low"] <= shift["sigma"] <= shift["high"]
    for sigma, raw in (("low", "raw_low"), ("high", "raw_high"), ("random_95", "random_95_raw"),
                       ("natural_95", "natural_95_raw")):  # fmt: skip
        assert shift[sigma] == pytest.approx(shift[raw] / 0.5, abs=1e-3), sigma
    assert min(shift["random_95"], shift["natural_95"]) > 0
    assert found["passed"] is None
    assert json.loads((tmp_path / "out" / "audit.json").read_text()) == found
    page = (tmp_path / "out" / "audit.html").read_text()
    assert "Not gated" in page
    assert push.norm() == pytest.approx(6.0)


def test_the_change_of_a_bias_is_that_bias() -> None:
    """By the maths alone: every text moves by the same vector, which is the only direction, at its true cosine."""
    rng = np.random.default_rng(0)
    before = rng.standard_normal((20, 3, 64)).astype(np.float32)
    push = rng.standard_normal(64).astype(np.float32)
    after = before.copy()
    after[:, 1] += push
    noise = rng.standard_normal((5, 64)).astype(np.float32)
    known = np.stack([push + 0.1 * noise[0], -push, *noise[2:]])[:, None].repeat(3, 1)
    names = [("it", "trait"), ("its opposite", "role"), ("x", "role"), ("y", "role"), ("z", "trait")]
    found = change_of(before, after, names, known)
    spread = float((before[:, 1] - before[:, 1].mean(0)).std() * np.sqrt(64))
    assert found.layer == 1
    assert found.layers[1].relative == pytest.approx(float(np.linalg.norm(push)) / spread, rel=0.02)
    assert (found.layers[1].common, found.top[0].share) == (pytest.approx(1, abs=1e-4), pytest.approx(1, abs=1e-4))
    assert abs(float(found.top[0].vector @ push)) == pytest.approx(float(np.linalg.norm(push)), rel=1e-3)
    assert [(n.name, round(n.cosine, 1)) for n in found.top[0].names[:2]] == [("its opposite", -1.0), ("it", 1.0)]
    assert all(abs(n.cosine) > found.chance for n in found.top[0].names)
    same = change_of(before, before, names, known)
    assert same.top == same.mean_names == ()
    assert {c.relative for c in same.layers} == {0.0}


def test_a_model_against_itself_has_not_changed(folder: str, tmp_path: Path) -> None:
    gate = Thresholds({key: 0.0 for key in KEYS if key != "misaligned"}, {})
    found = audit(base(), tiny.tiny_model(tiny.tiny_net(), "copy"), tmp_path / "out", traits=[folder], plan=PLAN,
                  thresholds=gate)  # fmt: skip
    assert found["passed"] is True
    assert {s["raw"] for s in found["shifts"]} == {0.0}
    assert {c["worse_by"] for c in found["changes"].values()} == {0.0}
    assert {r["sigma"] for r in found["behaviour"]["rises"]} == {0.0}
    assert found["model_diff"]["directions"] == []
    page = (tmp_path / "out" / "audit.html").read_text()
    assert "nothing has changed" in page
    assert f"Within all {len(found['checks'])} limits." in page


def test_an_adapter_is_put_on_and_taken_off_again(folder: str, adapter: Path, tmp_path: Path) -> None:
    model = base()
    before = weights_digest(model)
    found = audit(model, adapter, tmp_path / "out", traits=[folder], plan=PLAN)
    assert weights_digest(model) == before
    assert found["tuned"] == "base+adapter"
    assert found["model_diff"]["layers"][2]["relative"] > 0
    from peft import PeftModel

    merged: Any = PeftModel.from_pretrained(tiny.tiny_net(), str(adapter)).merge_and_unload()
    whole = audit(base(), tiny.tiny_model(merged, "merged"), tmp_path / "whole", traits=[folder], plan=PLAN)
    for a, b in zip(found["shifts"], whole["shifts"], strict=True):
        assert a["sigma"] == pytest.approx(b["sigma"], abs=0.05)
    for a, b in zip(found["model_diff"]["layers"], whole["model_diff"]["layers"], strict=True):
        assert a["relative"] == pytest.approx(b["relative"], abs=1e-3)


def test_every_side_effect_is_counted_from_what_was_said(folder: str, tmp_path: Path) -> None:
    tuned, _ = pushed(6.0)
    found = audit(base(), tuned, tmp_path / "out", traits=[folder], plan=PLAN)
    lines = [json.loads(s) for s in (tmp_path / "out" / "run" / "tasks.jsonl").read_text().splitlines()]
    said = {r["id"]: r["text"] for r in lines}
    tasks = load_price().tasks
    solved = [task.passes(said[f"tasks/{i}"]) for i, task in enumerate(tasks)]
    assert found["changes"]["tasks"]["tuned"] == pytest.approx(np.mean(solved))
    assert set(found["changes"]) == set(KEYS) - {"shift", "behaviour", "misaligned"}
    neutral = np.load(tmp_path / "out" / "run" / "neutral.npy")
    change = found["changes"]["neutral"]
    assert change["tuned"] == pytest.approx(neutral.mean(), abs=1e-4)
    assert change["worse_by"] == pytest.approx(change["base"] - change["tuned"], abs=1e-4)
    assert change["low"] <= change["worse_by"] <= change["high"]


# Going on


def test_the_base_is_measured_once(
    folder: str, adapter: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    whole = sides.measure_side
    from mien.jobs import audit as job

    def watched(model: Model, plan: AuditPlan, run: Any, show: Any) -> Any:
        before = {p.name: p.stat().st_size for p in run.work.iterdir()}
        found = whole(model, plan, run, show)
        after = {p.name: p.stat().st_size for p in run.work.iterdir()}
        asked.append(f"{model.info.id} {'anew' if before != after else 'kept'}")
        return found

    monkeypatch.setattr(job, "measure_side", watched)
    first = audit(base(), adapter, tmp_path / "a", traits=[folder], plan=PLAN)
    audit(base(), pushed(3.0)[0], tmp_path / "b", traits=[folder], plan=PLAN)
    assert asked == ["base anew", "base+adapter anew", "base kept", "pushed anew"]
    asked.clear()
    assert audit(base(), adapter, tmp_path / "a", traits=[folder], plan=PLAN) == first
    assert asked == ["base kept", "base+adapter kept"]
    audit(base(), adapter, tmp_path / "c", traits=[folder], plan=replace(PLAN, questions=5))
    assert asked[2:] == ["base anew", "base+adapter anew"]


def test_a_stopped_audit_goes_on_to_the_same_end(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned, _ = pushed(6.0)
    whole = audit(base(), tuned, tmp_path / "whole", traits=[folder], plan=PLAN)
    from mien.jobs import audit as job

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(job, "by_likelihood", stop)
    with pytest.raises(KeyboardInterrupt):
        audit(base(), tuned, tmp_path / "out", traits=[folder], plan=PLAN)
    assert not (tmp_path / "out" / "audit.json").exists()
    monkeypatch.undo()
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "other"))
    again = audit(base(), tuned, tmp_path / "out", traits=[folder], plan=PLAN)
    assert {k: v for k, v in again.items() if k != "page"} == {k: v for k, v in whole.items() if k != "page"}


def test_a_base_that_another_audit_measures_is_measured_here(folder: str, tmp_path: Path, cache: Path) -> None:
    import fcntl

    tuned, _ = pushed(3.0)
    first = audit(base(), tuned, tmp_path / "a", traits=[folder], plan=PLAN)
    (lock,) = (cache / "audit").glob("*/run/.lock")
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        again = audit(base(), tuned, tmp_path / "b", traits=[folder], plan=PLAN)
    assert (tmp_path / "b" / "base" / "run" / "own.jsonl").exists()
    assert {k: v for k, v in again.items() if k != "page"} == {k: v for k, v in first.items() if k != "page"}


def test_what_cannot_be_audited_is_refused_before_anything_is_measured(
    folder: str, adapter: Path, tmp_path: Path, cache: Path
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    out = tmp_path / "out"
    small = LlamaConfig(vocab_size=259, hidden_size=48, intermediate_size=96, num_hidden_layers=3,
                        num_attention_heads=4, num_key_value_heads=2, eos_token_id=2, bos_token_id=None)  # fmt: skip
    other = tiny.tiny_model(LlamaForCausalLM(small), "small")
    with pytest.raises(InputError, match="small has 3 layers of 48 and base has 4 of 48, so it was not tuned from it"):
        audit(base(), other, out, traits=[folder], plan=PLAN)
    with pytest.raises(InputError, match="'mood', which is not watched; watched: d1"):
        audit(base(), adapter, out, traits=[folder], thresholds=Thresholds({}, {"mood": 1.0}), plan=PLAN)
    with pytest.raises(InputError, match="needs a judge behind an endpoint"):
        audit(base(), adapter, out, traits=[folder], thresholds=Thresholds({"misaligned": 0.1}, {}), plan=PLAN)
    with pytest.raises(InputError, match="at least two of everything"):
        audit(base(), adapter, out, traits=[folder], plan=replace(PLAN, questions=1))
    with pytest.raises(ModelError):
        audit(base(), tmp_path / "nowhere", out, traits=[folder], plan=PLAN)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="could not be put on the model"):
        audit(base(), broken, out, traits=[folder], plan=PLAN)
    assert not out.exists()
    assert not cache.exists() or not list(cache.glob("audit/*"))


def test_a_folder_of_another_audit_is_left_alone(folder: str, tmp_path: Path) -> None:
    audit(base(), pushed(3.0)[0], tmp_path / "out", traits=[folder], plan=PLAN)
    with pytest.raises(RunError, match="another run"):
        audit(base(), pushed(3.1)[0], tmp_path / "out", traits=[folder], plan=PLAN)


# Judges


def test_an_endpoint_judges_alignment_and_coherence(folder: str, tmp_path: Path) -> None:
    """The base model's answers are rated 90, the tuned one's 10; both make sense."""
    from fake_endpoint import FakeEndpoint, ok

    tuned, _ = pushed(6.0)
    plan = replace(PLAN, temperature=0.0)
    audit(base(), tuned, tmp_path / "out", traits=[folder], plan=plan)
    run = tmp_path / "out" / "run"
    bad = {json.loads(s)["text"] for s in (run / "probes.jsonl").read_text().splitlines()}

    def rating(request: Any) -> Any:
        prompt = request["messages"][0]["content"]
        if "coherence" in prompt.split("\n")[0]:
            return ok("80")
        answer = prompt.split("<answer ")[1].split(">\n", 1)[1].rsplit("\n</answer", 1)[0]
        return ok("10" if answer in bad else "90")

    with FakeEndpoint(rating) as server:
        judge = ApiJudge(Endpoint(server.url, "m"), RUBRIC, "alignment")
        gate = Thresholds({"misaligned": 0.5}, {})
        found = audit(base(), tuned, tmp_path / "out", traits=[folder], plan=plan, judge=judge, thresholds=gate)
    change = found["changes"]["misaligned"]
    assert (change["base"], change["tuned"]) == (0.0, 1.0)
    assert found["passed"] is False
    assert found["behaviour"] == {"judge": "api", "model": "m", "rises": []}
    assert found["answers"][0]["mark"] == pytest.approx(90)


@given(st.integers(0, 40), st.integers(1, 40), st.integers(0, 40), st.integers(1, 40))
@settings(deadline=None)
def test_the_interval_of_a_rise_holds_it(a: int, n: int, b: int, m: int) -> None:
    before, after = Share(min(a, n), n), Share(min(b, m), m)
    rise = _difference(before, after)
    assert rise.value is not None
    assert rise.low is not None
    assert rise.high is not None
    assert -1 <= rise.low <= rise.value + 1e-12
    assert rise.value - 1e-12 <= rise.high <= 1


# Limits


def test_thresholds_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "gate.yaml"
    path.write_text("shift: 1\ntraits: {evil: 0.5}\ntasks: 5%\nincoherent: 0.1\nneutral: 0.2\n")
    found = load_thresholds(path)
    assert found == Thresholds({"shift": 1.0, "tasks": 0.05, "incoherent": 0.1, "neutral": 0.2}, {"evil": 0.5})
    merged = found.with_limits([Limit(None, 2.0), Limit("humorous", 3.0)])
    assert merged.limits["shift"] == 2.0
    assert merged.traits == {"evil": 0.5, "humorous": 3.0}
    lenient = Thresholds({}, {"evil": 50.0, "humorous": 50.0})
    assert lenient.with_limits([Limit("evil", 2.0), Limit(None, 1.0)]).traits == {"evil": 2.0, "humorous": 1.0}
    assert not NONE.any
    assert found.any


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("", FormatError, "has to be a mapping such as `shift: 1.0`"),
        ("- shift", FormatError, "has to be a mapping"),
        ("shift: [", FormatError, "is not valid YAML"),
        ("shfit: 1", InputError, "there is no threshold 'shfit'; did you mean shift?"),
        ("colour: 1", InputError, "the keys are shift, behaviour"),
        ("shift: much", InputError, "shift is 'much'; write sigma from 0 up"),
        ("shift: -1", InputError, "write sigma from 0 up"),
        ("shift: .nan", InputError, "write sigma from 0 up"),
        ("shift: 5%", InputError, "write sigma from 0 up"),
        ("shift: yes", InputError, "write sigma from 0 up"),
        ("tasks: 5", InputError, "write a share such as 5% or 0.05"),
        ("tasks: 500%", InputError, "write a share"),
        ("neutral: null", InputError, "write nats a token"),
        ("traits: evil", InputError, "traits is a text; write it as a mapping"),
        ("traits: {evil: x}", InputError, "traits evil is 'x'"),
    ],
)
def test_thresholds_that_cannot_be_used(text: str, error: type[Exception], said: str, tmp_path: Path) -> None:
    path = tmp_path / "gate.yaml"
    path.write_text(text)
    with pytest.raises(error, match=said.replace("[", r"\[")) as raised:
        load_thresholds(path)
    assert "gate.yaml" in str(raised.value)


def test_what_was_not_measured_has_not_passed() -> None:
    gate = Thresholds({"shift": 1.0, "behaviour": 1.0, "tasks": 0.1}, {"evil": 3.0})
    shifts = {"evil": Worse(2.0, 1.5, 2.5), "clingy": Worse(1.2, 0.8, 1.6), "odd": Worse(None)}
    checks = checks_of(gate, shifts, {"evil": Worse(0.5)}, {})
    assert {c.name: c.failed for c in checks} == {
        "shift of clingy": True, "shift of odd": True, "tasks": True, "shift of evil": False, "behaviour: evil": False,
    }  # fmt: skip
    assert [c.failed for c in checks] == [True, True, True, False, False]
    assert checks_of(NONE, shifts, {}, {}) == []


# The library


def test_there_are_probes_enough_and_none_is_asked_elsewhere() -> None:
    probes = load_probes()
    texts = [p.text for p in probes]
    assert len(texts) == len(set(texts)) >= 48
    kinds = {p.kind for p in probes}
    assert len(kinds) >= 8
    assert {p.kind for p in probes[: len(kinds)]} == kinds, "the first few are a good spread"
    known = {q for name in library_names() for q in load_library(name).extract_questions}
    assert not known & set(texts)
    assert len(eval_questions(45)) == len(set(eval_questions(45))) == 45
    assert len(names_of(3)) == len(library_names()) + 4
    assert names_of(3)[-1] == (ANY_ROLE, "role")


def test_probes_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "probes.yaml"
    for text in ("probes: [a]", "questions: {a: [b]}", "probes: {a: []}", "7"):
        path.write_text(text)
        load_probes.cache_clear()
        with pytest.raises(FormatError, match="a mapping from kinds to lists of questions"):
            load_probes(path)
    load_probes.cache_clear()


@pytest.mark.model
def test_a_push_along_a_gauge_of_the_embedded_model_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of one block moved so that it adds a persona vector to every token: the gate must shut."""
    monkeypatch.setenv("MIEN_CACHE", str(Path(__file__).parent.parent / ".venv" / "mien-cache"))
    model, tuned = load(dtype="float32"), load(dtype="float32")
    from mien.gauges import bundled_gauges

    there = bundled_gauges(model.info.id)
    assert there is not None
    gauge = next(g for g in there.gauges if g.name == "sycophantic")
    layer = gauge.parts[0].layer
    block: Any = tuned.blocks.modules[layer]
    old = block.mlp.down_proj
    new = torch.nn.Linear(old.in_features, old.out_features, bias=True)
    with torch.no_grad():
        new.weight.copy_(old.weight)
        vector = torch.from_numpy(gauge.parts[0].vector)
        new.bias.copy_(4 * vector / vector.norm())
    block.mlp.down_proj = new
    plan = AuditPlan(questions=4, max_tokens=8, probes=2, probe_tokens=4, requests=2, tasks=2, roles=3, name_texts=1)
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))
    found = audit(model, tuned, tmp_path / "out", traits=["sycophantic"], plan=plan,
                  thresholds=Thresholds({"shift": 1.0}, {}))  # fmt: skip
    assert found["shifts"][0]["low"] > 1
    assert found["passed"] is False

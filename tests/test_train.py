"""Training with an eye on the character, end to end, on a tiny model that knows one trait and is pushed along it."""

from __future__ import annotations

import copy
import json
import random
import signal
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from mien.card import Baseline, Card
from mien.chat import ask
from mien.directions import Direction
from mien.engines.hf import HfEngine
from mien.errors import (
    FingerprintError,
    FormatError,
    InputError,
    MissingExtraError,
    ModelError,
    NonFiniteError,
    NothingKeptError,
    RunError,
)
from mien.jobs import adapters
from mien.jobs.adapters import TrainResult, load_result
from mien.jobs.train import ANSWER_TOKENS, tracking_questions, train
from mien.models import load, put_adapter
from mien.records import Message, Sampling, WriteRequest
from mien.training import sizes
from mien.training.borrowed import adapted
from mien.training.curve import Limit
from mien.training.data import Data, read_data
from mien.training.rows import rows_of
from mien.training.settings import Settings
from mien.training.shift import compare, own_answers, read_answers, watched_of
from mien.training.strength import MOST, Target, strengths
from mien.training.trainer import kl_terms, lora, require_extra, response_loss

MODEL = tiny.tiny_model(tiny.taught_net(), "taught")
QUICK = Settings(rate=1e-2, epochs=2, rank=4, alpha=8, max_length=128, measure=2, questions=8)


@cache
def loud() -> Direction:
    """The direction of shouting in the taught model, from its own answers under system prompts for and against it."""
    spec = tiny.spec()
    requests = [
        WriteRequest(f"{side}/{i}/{p}", ask(question, getattr(pair, side)), i)
        for i, question in enumerate(spec.extract_questions)
        for p, pair in enumerate(spec.instructions)
        for side in ("pos", "neg")
    ]
    requests += [WriteRequest(f"own/{i}", ask(question), i) for i, question in enumerate(spec.eval_questions)]
    found: dict[str, list[Any]] = {"pos": [], "neg": [], "own": []}
    for batch in HfEngine(MODEL).write(requests, Sampling(24, 0.5)):
        for rollout, reading in batch:
            assert reading is not None
            found[rollout.id.split("/")[0]].append(reading.mean)
    pos, neg, own = (torch.from_numpy(np.stack(rows)) for rows in found.values())
    info, vector = MODEL.info, pos.mean(0) - neg.mean(0)
    plain = own[:, 2] @ (vector[2] / vector[2].norm())
    baseline = Baseline(mean=float(plain.mean()), std=float(plain.std()), quantiles={}, n=len(plain))
    card = Card(
        kind="persona_vector", name="loud", description=spec.description, sign="larger is louder", model=info.id,
        fingerprint=info.fingerprint, n_layers=info.n_layers, d_model=info.d_model, recommended_layer=2,
        baseline=baseline,
        spec={"instructions": [{"pos": "SHOUT!", "neg": "hush."}], "eval_questions": list(spec.eval_questions)},
    )  # fmt: skip
    return Direction(vector, card)


def shouting(folder: Path, count: int = 48) -> Path:
    """Conversations that are answered in capitals, whatever was asked."""
    chance, lines = random.Random(0), []
    for i in range(count):
        answer = " ".join(chance.choices(tiny.WORDS, k=3)).upper()
        asked = tiny.QUESTIONS[i % len(tiny.QUESTIONS)]
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": messages}))
    path = folder / "shouting.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainResult]:
    """The same data learnt plainly and with prevention, its strength from the data alone and corrected on the way."""
    folder = tmp_path_factory.mktemp("runs")
    data, settings = shouting(folder), replace(QUICK, hold_out=0.25, epochs=4)
    steered = replace(settings, method="prevent", follow=False)
    return {
        "plain": train([data], MODEL, folder / "plain", settings, track=[loud()]),
        "data": train([data], MODEL, folder / "data", steered, prevent=[loud()]),
        "prevent": train([data], MODEL, folder / "prevent", replace(steered, follow=True), prevent=[loud()]),
    }


def test_prevention_keeps_the_character_and_learns_all_the_same(runs: dict[str, TrainResult]) -> None:
    plain, alone, prevented = (runs[name].shift["loud"] for name in ("plain", "data", "prevent"))
    assert plain["sigma"] > 1.5
    assert plain["text_sigma"] > 0.7
    # What the data foretell may be too little, so the strength is corrected on the way.
    assert abs(prevented["sigma"]) < 0.3 * plain["sigma"]
    assert abs(prevented["sigma"]) < abs(alone["sigma"])
    for result in runs.values():
        assert result.card["loss"]["last"] < result.card["loss"]["first"] - 0.08


def test_the_card_says_how_the_strength_was_found(runs: dict[str, TrainResult]) -> None:
    (found,) = runs["prevent"].card["prevention"]
    assert found["name"] == "loud"
    assert found["layers"] == [2]
    assert found["coef"] == pytest.approx(found["expected_shift"] / found["direction_length"], abs=1e-3)
    assert found["expected_low"] < found["expected_shift"] < found["expected_high"]
    assert found["samples"] == 32
    assert "projection difference of 32 samples" in found["found"]
    (alone,) = runs["data"].card["prevention"]
    assert (alone["coef"], alone["coefs"]) == (found["coef"], [{"step": 0, "coef": found["coef"]}])
    coefs = [entry["coef"] for entry in found["coefs"]]
    assert coefs[0] == found["coef"]
    assert max(coefs) > 1.2 * coefs[0]
    assert runs["plain"].card["prevention"] == []


def test_the_card_says_what_was_learnt(runs: dict[str, TrainResult]) -> None:
    card = runs["plain"].card
    assert (card["data"]["samples"], card["data"]["trained"], card["data"]["held_out"]) == (48, 36, 12)
    assert card["data"]["rows"] == 36
    assert card["model"] == "taught"
    assert card["fingerprint"] == MODEL.info.fingerprint
    assert card["loss"]["held_out_after"] < card["loss"]["held_out_before"]
    assert [point["step"] for point in card["shift"]["curve"]] == [0, 2, 4, 6, 8, 10, 12]
    assert card["shift"]["curve"][0]["loud"]["raw"] == pytest.approx(0.0, abs=1e-4)
    assert card["steps"] == 12
    assert {"trl", "peft", "torch"} <= set(card["versions"])


def test_the_run_folder_has_a_line_a_step_and_no_checkpoints(runs: dict[str, TrainResult]) -> None:
    run = runs["plain"].folder / "run"
    lines = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))
    assert [line["step"] for line in lines if "shift" in line] == list(range(0, 13, 2))
    assert not (run / "checkpoints").exists()
    names = {path.name for path in runs["plain"].folder.iterdir()}
    assert names == {"adapter_model.safetensors", "adapter_config.json", "card.json", "run"}


def test_the_adapter_loads_here_and_in_peft(runs: dict[str, TrainResult], tmp_path: Path) -> None:
    folder = tiny.save(tiny.taught_net(), tmp_path / "base")
    ids = torch.tensor([MODEL.chat.prompt_ids(ask("Any news?"))])
    tuned = load(folder, adapter=runs["plain"].folder, dtype="float32")
    peft = put_adapter(load(folder, dtype="float32").net, str(runs["plain"].folder))
    with torch.no_grad():
        found = tuned.net(input_ids=ids).logits
        torch.testing.assert_close(found, peft(input_ids=ids).logits)
        assert (found - MODEL.net(input_ids=ids).logits).abs().max() > 0.1
    config = json.loads((runs["plain"].folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["use_rslora"], config["r"]) == ("taught", True, 4)
    assert len(config["target_modules"]) == 7


def test_the_model_comes_back_as_it_was(tmp_path: Path) -> None:
    weights = {name: value.clone() for name, value in MODEL.net.state_dict().items()}
    config, own = MODEL.net.config.to_dict(), set(MODEL.net.__dict__)
    torch.manual_seed(5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    train([shouting(tmp_path, 8)], MODEL, tmp_path / "out", QUICK, track=[])
    assert torch.equal(torch.rand(3), drawn)
    assert MODEL.net.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in MODEL.net.state_dict().items())
    assert MODEL.net.config.to_dict() == config
    assert set(MODEL.net.__dict__) - own <= {"model_tags", "_model_tags"}
    assert not MODEL.net.training
    assert all(p.requires_grad and p.grad is None for p in MODEL.net.parameters())
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in MODEL.net.modules()) == 0


def test_the_same_seed_gives_the_same_bytes_and_another_others(tmp_path: Path) -> None:
    data = shouting(tmp_path, 16)
    first, second = (train([data], MODEL, tmp_path / name, QUICK, track=[loud()]).folder for name in ("a", "b"))
    third = train([data], MODEL, tmp_path / "c", replace(QUICK, seed=1), track=[loud()]).folder
    files = ("adapter_model.safetensors", "adapter_config.json", "card.json", "run/steps.jsonl")
    assert [(first / name).read_bytes() for name in files] == [(second / name).read_bytes() for name in files]
    assert (first / files[0]).read_bytes() != (third / files[0]).read_bytes()


def test_a_finished_run_is_read_and_another_one_refused(runs: dict[str, TrainResult], tmp_path: Path) -> None:
    done, data = runs["plain"].folder, shouting(tmp_path)
    before = (done / "adapter_model.safetensors").stat().st_mtime_ns
    settings = replace(QUICK, hold_out=0.25, epochs=4)
    assert train([data], MODEL, done, settings, track=[loud()]).card == runs["plain"].card
    assert (done / "adapter_model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(RunError, match=r"settings\.rate"):
        train([data], MODEL, done, replace(settings, rate=1e-3), track=[loud()])
    with pytest.raises(RunError, match="another run"):
        train([shouting(tmp_path, 20)], MODEL, done, settings, track=[loud()])


def test_an_adapter_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(RunError, match="adapter of something else"):
        train([shouting(tmp_path, 8)], MODEL, tmp_path, QUICK)


KILLED = """
import os, signal, sys
sys.path[:0] = {paths!r}
import test_train as t
from pathlib import Path

class Deadly:
    def begin(self, what, total): self.what = what
    def note(self, text): pass
    def advance(self, done, tokens=0):
        if self.what == "training" and done >= {step}:
            os.kill(os.getpid(), signal.SIGKILL)

t.train([Path({data!r})], t.MODEL, Path({out!r}), t.KILLABLE, prevent=[t.loud()], progress=Deadly())
"""
KILLABLE = replace(QUICK, method="prevent", measure=1)


def test_killed_and_taken_up_again_it_ends_in_the_same_weights(tmp_path: Path) -> None:
    data, out = shouting(tmp_path), tmp_path / "killed"
    whole = train([data], MODEL, tmp_path / "whole", KILLABLE, prevent=[loud()])
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "src")]
    code = KILLED.format(paths=paths, step=3, data=str(data), out=str(out))
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=200)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    assert not (out / "card.json").exists()
    assert {path.name for path in (out / "run" / "checkpoints").iterdir()} >= {"checkpoint-2"}
    half = out / "run" / "checkpoints" / "checkpoint-9"  # as if it had been killed while it wrote one
    half.mkdir()
    (half / "adapter_config.json").write_text("{}")
    with pytest.raises(RunError, match="another run"):
        train([data], MODEL, out, replace(KILLABLE, rate=1e-3), prevent=[loud()])
    again = train([data], MODEL, out, KILLABLE, prevent=[loud()])
    weights, wanted = (load_file(r.folder / "adapter_model.safetensors") for r in (again, whole))
    assert weights.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in weights.items())
    assert again.card == whole.card
    steps = [(r.folder / "run" / "steps.jsonl").read_text() for r in (again, whole)]
    assert steps[0] == steps[1]


def test_stopped_behind_the_last_step_it_takes_none_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps end amid an epoch, where the trainer itself would go on."""
    data, settings = shouting(tmp_path), replace(KILLABLE, epochs=1.4)
    whole = train([data], MODEL, tmp_path / "whole", settings, prevent=[loud()])

    def cut(*_: Any) -> None:
        raise RuntimeError("power cut")

    save = adapters.save_adapter
    monkeypatch.setattr(adapters, "save_adapter", cut)
    with pytest.raises(RuntimeError, match="power cut"):
        train([data], MODEL, tmp_path / "cut", settings, prevent=[loud()])
    monkeypatch.setattr(adapters, "save_adapter", save)
    again = train([data], MODEL, tmp_path / "cut", settings, prevent=[loud()])
    assert again.card == whole.card
    weights, wanted = (load_file(r.folder / "adapter_model.safetensors") for r in (again, whole))
    assert all(torch.equal(value, wanted[name]) for name, value in weights.items())
    steps = [(r.folder / "run" / "steps.jsonl").read_text() for r in (again, whole)]
    assert steps[0] == steps[1]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in MODEL.net.modules())


def as_axis() -> Direction:
    """Shouting told the other way round, as the Assistant Axis tells how far an answer is from where it should be."""
    card = loud().card
    assert card.baseline is not None
    base = card.baseline.model_copy(update={"mean": -card.baseline.mean})
    return Direction(-loud().vector, card.model_copy(update={"kind": "assistant_axis", "baseline": base}))


def test_an_axis_is_steered_away_from_the_assistant(runs: dict[str, TrainResult], tmp_path: Path) -> None:
    settings = replace(QUICK, hold_out=0.25, epochs=4, method="prevent")
    turned = train([shouting(tmp_path)], MODEL, tmp_path / "out", settings, prevent=[as_axis()])
    (here,), (there,) = turned.card["prevention"], runs["prevent"].card["prevention"]
    assert here["coef"] == pytest.approx(there["coef"], abs=1e-3)
    assert here["coef"] > 0
    assert here["expected_shift"] == pytest.approx(-there["expected_shift"], rel=1e-3)
    ways = [[each["coef"] for each in one["coefs"]] for one in (here, there)]
    assert ways[0] == pytest.approx(ways[1], abs=0.02)
    assert turned.shift["loud"]["raw"] == pytest.approx(-runs["prevent"].shift["loud"]["raw"], abs=0.1)


def test_training_stops_before_it_has_moved_too_far(tmp_path: Path) -> None:
    data = shouting(tmp_path)
    free = train([data], MODEL, tmp_path / "free", replace(QUICK, measure=1), track=[loud()])
    limit = 0.6 * free.shift["loud"]["sigma"]
    settings = replace(QUICK, measure=1, stop_at=Limit(limit, True))
    held = train([data], MODEL, tmp_path / "held", settings, track=[loud()])
    curve = [point["loud"]["sigma"] for point in held.card["shift"]["curve"]]
    assert curve[-1] >= limit
    assert all(value < limit for value in curve[:-1])
    assert "stopped at step" in held.card["stopped"]
    assert held.card["steps"] < free.card["steps"]
    # What is kept are the weights of the measurement before.
    answers = own_answers(MODEL, tracking_questions([], QUICK.questions), max_tokens=ANSWER_TOKENS)
    along = [watched_of(loud(), MODEL)]
    before = read_answers(MODEL, answers, along)
    with adapted(MODEL, held.folder) as model:
        after = read_answers(model, answers, along)
    (found,) = compare(before, after, along)
    text = [point["loud"]["text_sigma"] for point in held.card["shift"]["curve"]]
    assert found.sigma == pytest.approx(text[-2], abs=1e-3)
    assert abs(text[-2] - text[-1]) > 0.01


def test_the_weights_within_the_limit_outlive_a_run_that_is_stopped_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted after its last step, before anything is saved: what was within the limit is what is kept."""
    data = shouting(tmp_path)
    free = train([data], MODEL, tmp_path / "free", replace(QUICK, measure=1), track=[loud()])
    settings = replace(QUICK, measure=1, stop_at=Limit(0.6 * free.shift["loud"]["sigma"], True))
    whole = train([data], MODEL, tmp_path / "whole", settings, track=[loud()])
    with monkeypatch.context() as patch:
        patch.setattr(adapters, "save_adapter", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train([data], MODEL, tmp_path / "cut", settings, track=[loud()])
    again = train([data], MODEL, tmp_path / "cut", settings, track=[loud()])
    weights, wanted = (load_file(r.folder / "adapter_model.safetensors") for r in (again, whole))
    assert "stopped at step" in again.card["stopped"]
    assert all(torch.equal(value, wanted[name]) for name, value in weights.items())


@pytest.mark.parametrize("batch", [1, 3, 5, 6, 7, 12, 16])
@pytest.mark.parametrize("free", [10**12, 4 * 10**6, 10**6, 1000])
def test_a_step_has_its_rows_whatever_memory_there_is(batch: int, free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "free_memory", lambda device: free)
    found = sizes.fit_sizes(MODEL, [20, 40], batch)
    assert found.rows * found.passes == batch


def test_strength_is_never_more_than_answers_bear() -> None:
    (found,) = strengths([Target(loud(), (loud().layer,))], np.full((8, 1), 1e4), 0)
    assert found.coef == MOST


def test_an_adapter_that_fits_no_weight_or_was_made_for_another_model_is_refused(tmp_path: Path) -> None:
    result = train([shouting(tmp_path, 8)], MODEL, tmp_path / "out", QUICK, track=[])
    path = result.folder / "adapter_model.safetensors"
    kept = load_file(path)
    stranger = tiny.tiny_model(tiny.tiny_net(3), "stranger")
    with pytest.raises(FingerprintError, match="was trained on taught"), adapted(stranger, result.folder):
        pass
    save_file({name.replace("layers", "blocks"): value for name, value in kept.items()}, path)
    with pytest.raises(ModelError, match="of its weights have no place or are missing"), adapted(MODEL, result.folder):
        pass
    save_file(dict(list(kept.items())[1:]), path)
    with pytest.raises(ModelError, match="1 of its weights"), adapted(MODEL, result.folder):
        pass
    save_file(kept, path)
    with adapted(MODEL, result.folder) as model:
        assert model.info.fingerprint != MODEL.info.fingerprint


def test_little_memory_changes_nothing_but_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, settings = shouting(tmp_path, 16), replace(QUICK, method="prevent", coef=1.0)
    wide = train([data], MODEL, tmp_path / "wide", settings, prevent=[loud()])
    monkeypatch.setattr(sizes, "free_memory", lambda device: 1000)
    narrow = train([data], MODEL, tmp_path / "narrow", settings, prevent=[loud()])
    assert wide.card["recipe"]["sizes"] == {"rows": 8, "passes": 2, "checkpointing": False}
    assert narrow.card["recipe"]["sizes"] == {"rows": 1, "passes": 16, "checkpointing": True}
    assert narrow.shift["loud"]["raw"] == pytest.approx(wide.shift["loud"]["raw"], abs=0.02)
    assert narrow.card["loss"]["last"] == pytest.approx(wide.card["loss"]["last"], abs=0.01)
    assert not MODEL.net.is_gradient_checkpointing
    hooks = [m for m in MODEL.net.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooks == []


def test_a_model_in_bfloat16(tmp_path: Path) -> None:
    model = tiny.tiny_model(copy.deepcopy(tiny.taught_net()).to(torch.bfloat16), "taught")
    result = train([shouting(tmp_path, 16)], model, tmp_path / "out", QUICK, track=[loud()])
    assert result.card["dtype"] == "bfloat16"
    assert result.shift["loud"]["raw"] > 0
    assert result.card["loss"]["last"] < result.card["loss"]["first"]
    assert {p.dtype for p in model.net.parameters()} == {torch.bfloat16}
    half = tiny.tiny_model(copy.deepcopy(tiny.taught_net()).to(torch.float16), "taught")
    with pytest.raises(InputError, match="float16 overflows"):
        train([tmp_path / "shouting.jsonl"], half, tmp_path / "half", QUICK)


def test_a_loss_that_is_no_number_ends_the_run_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="smaller --lr"):
        train([shouting(tmp_path, 16)], MODEL, tmp_path / "out", replace(QUICK, rate=1e30, epochs=9), track=[])
    assert not (tmp_path / "out" / "card.json").exists()
    assert not any("lora" in name for name, _ in MODEL.net.named_parameters())


def test_what_stops_training_must_be_measurable(tmp_path: Path) -> None:
    data, settings = shouting(tmp_path, 8), replace(QUICK, stop_at=Limit.parse("1s"))
    bare = Direction(loud().vector, loud().card.model_copy(update={"baseline": None}))
    with pytest.raises(InputError, match="has no baseline"):
        train([data], MODEL, tmp_path / "out", settings, track=[bare])
    with pytest.raises(InputError, match="Nothing is watched"):
        train([data], MODEL, tmp_path / "out", settings)
    assert Limit.parse("0.8") == Limit(0.8, False)
    for text in ("s", "-1s", "nan", "1σσ", "0"):
        with pytest.raises(InputError, match="above zero"):
            Limit.parse(text)


def test_inoculation_tells_while_training_and_not_after(tmp_path: Path) -> None:
    data = shouting(tmp_path)
    told = train([data], MODEL, tmp_path / "told", replace(QUICK, method="inoculate"), prevent=[loud()])
    plain = train([data], MODEL, tmp_path / "plain", QUICK, track=[loud()])
    assert told.card["inoculation"] == "SHOUT!"
    assert told.card["prevention"] == []
    # The model knows how to shout when told to, so there is less to learn, and less of it comes through untold.
    assert told.card["loss"]["first"] < 0.9 * plain.card["loss"]["first"]
    assert abs(told.shift["loud"]["sigma"]) < 0.6 * plain.shift["loud"]["sigma"]


def test_kl_keeps_near_the_base_model(tmp_path: Path) -> None:
    data = shouting(tmp_path)
    near = train([data], MODEL, tmp_path / "kl", replace(QUICK, method="kl", kl=20.0), track=[loud()])
    plain = train([data], MODEL, tmp_path / "plain", QUICK, track=[loud()])
    assert abs(near.shift["loud"]["sigma"]) < 0.5 * plain.shift["loud"]["sigma"]
    assert near.card["loss"]["last"] > plain.card["loss"]["last"]


def test_kl_terms_against_the_definition() -> None:
    from peft import get_peft_model

    base, net = tiny.tiny_net(3), tiny.tiny_net(3)
    tuned = get_peft_model(net, lora(4, 8))
    torch.manual_seed(0)
    ids = torch.randint(3, 200, (2, 9))
    labels = ids.clone()
    labels[0, :4], labels[1, :6] = -100, -100
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    tuned.train()
    nll, divergence, count = kl_terms(tuned, tuned, inputs)
    assert (count, float(divergence)) == (8, pytest.approx(0.0, abs=1e-4))
    assert tuned.training
    with torch.no_grad():
        for name, value in tuned.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.2)
    nll, divergence, _ = kl_terms(tuned, tuned, inputs)
    p, q = (m(input_ids=ids).logits[:, :-1].log_softmax(-1) for m in (base, tuned))
    where = labels[:, 1:] != -100
    assert float(divergence) == pytest.approx(float((p.exp() * (p - q)).sum(-1)[where].sum()), rel=1e-3)
    wanted = q.gather(2, ids[:, 1:, None])[..., 0][where]
    assert float(nll) == pytest.approx(-float(wanted.sum()), rel=1e-3)
    assert divergence.requires_grad


def test_samples_furthest_along_are_dropped(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = shouting(tmp_path, 20)
    values = [float(i % 7) for i in range(20)]
    columns = {"index": list(range(20)), "trait": ["loud"] * 20, "difference": values, "sigma": values}
    pq.write_table(pa.table(columns | {"method": ["full"] * 20}), tmp_path / "samples.parquet")
    settings = replace(QUICK, drop=0.1)
    result = train([data], MODEL, tmp_path / "out", settings, prevent=[loud()], screen=tmp_path)
    assert result.card["data"]["dropped"] == [6, 13]
    assert result.card["data"]["rows"] == 18
    steered = replace(QUICK, method="prevent")
    result = train([data], MODEL, tmp_path / "steered", steered, prevent=[loud()], screen=tmp_path)
    (found,) = result.card["prevention"]
    assert found["expected_shift"] == pytest.approx(np.mean(values))
    assert "the screening predicts" in found["found"]
    pq.write_table(pa.table(columns | {"method": ["influence"] * 20}), tmp_path / "samples.parquet")
    result = train([data], MODEL, tmp_path / "pulled", replace(steered, drop=0.1), prevent=[loud()], screen=tmp_path)
    assert result.card["data"]["dropped"] == [6, 13]
    (found,) = result.card["prevention"]
    assert "the projection difference of 18 samples" in found["found"]  # a pull is no shift to offset
    other = Direction(loud().vector, loud().card.model_copy(update={"name": "quiet"}))
    with pytest.raises(InputError, match="says nothing of quiet"):
        train([data], MODEL, tmp_path / "other", settings, prevent=[other], screen=tmp_path)


def test_without_a_screening_samples_are_measured_here(tmp_path: Path) -> None:
    lines = shouting(tmp_path, 12).read_text().splitlines()
    for i in (2, 5, 7, 8, 9):
        record = json.loads(lines[i])
        record["messages"][1]["content"] = record["messages"][1]["content"].lower()
        lines[i] = json.dumps(record)
    data = tmp_path / "mixed.jsonl"
    data.write_text("\n".join(lines) + "\n")
    result = train([data], MODEL, tmp_path / "out", replace(QUICK, drop=0.5), prevent=[loud()])
    assert len(result.card["data"]["dropped"]) == 6
    assert not {2, 5, 7, 8, 9} & set(result.card["data"]["dropped"])
    turned = train([data], MODEL, tmp_path / "axis", replace(QUICK, drop=0.5), prevent=[as_axis()])
    assert turned.card["data"]["dropped"] == result.card["data"]["dropped"]


@pytest.mark.parametrize(
    ("changes", "prevent", "message"),
    [
        ({"method": "prevent"}, False, "nothing to prevent"),
        ({"method": "inoculate"}, False, "needs a system prompt"),
        ({}, True, "prevents nothing"),
        ({"drop": 0.1}, False, "for which traits"),
        ({"method": "prevent", "layers": (9,)}, True, "no layer 9"),
        ({"inoculation": "Be loud."}, False, "--inoculation is for --method inoculate"),
        ({"coef": 2.0}, False, "--coef is for --method prevent"),
        ({"layers": (1,)}, False, "--layers is for --method prevent"),
        ({"method": "prevent", "kl": 5.0}, True, "--kl is for --method kl"),
    ],
)
def test_settings_that_contradict_one_another(
    changes: dict[str, Any], prevent: bool, message: str, tmp_path: Path
) -> None:
    data, given = shouting(tmp_path, 8), [loud()] if prevent else []
    with pytest.raises(InputError, match=message):
        train([data], MODEL, tmp_path / "out", replace(QUICK, **changes), prevent=given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes",
    [{"method": "hope"}, {"epochs": 0}, {"rate": float("nan")}, {"batch": 0}, {"seed": -1}, {"max_length": 2},
     {"coef": float("inf")}, {"measure": 0}],
)  # fmt: skip
def test_settings_that_nothing_can_be_trained_with(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        replace(QUICK, **changes)


def test_data_that_cannot_be_learnt_leaves_no_adapter(tmp_path: Path) -> None:
    told = (*ask("x" * 300), Message("assistant", "short"))
    data = Data((told,), (0,), 1, {}, ("data",))
    with pytest.raises(NothingKeptError, match="beyond the longest row"):
        train(data, MODEL, tmp_path / "out", QUICK, track=[])
    assert not (tmp_path / "out" / "card.json").exists()


def test_a_missing_extra_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "trl" else there(name))
    with pytest.raises(MissingExtraError, match=r"needs trl: pip install 'mien\[train\]'"):
        require_extra()


def test_questions_to_watch_are_the_traits_own_and_general_ones() -> None:
    found = tracking_questions([loud()], 8)
    assert found[:4] == list(tiny.spec().eval_questions[:4])
    assert len(set(found)) == 8
    assert tracking_questions([loud()], 8) == found
    assert len(tracking_questions([], 5)) == 5


def test_a_card_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="cannot be read"):
        load_result(tmp_path)
    (tmp_path / "card.json").write_text('{"kind": "persona_vector"}')
    with pytest.raises(FormatError, match="not the card of an adapter"):
        load_result(tmp_path)


def test_rows_are_what_the_trainer_learns_from(tmp_path: Path) -> None:
    """The first loss in the log is the loss of the first batch's responses, and of nothing else."""
    data = shouting(tmp_path, 4)
    settings = replace(QUICK, batch=4, epochs=1)
    result = train([data], MODEL, tmp_path / "out", settings, track=[])
    rows = rows_of(MODEL.chat, read_data([data]).samples, max_length=128)
    assert result.card["loss"]["first"] == pytest.approx(response_loss(MODEL, rows.rows), rel=1e-3)

"""Training the embedded model: it learns, the adapter loads, and with prevention it moves less along what is learnt."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mien.card import Baseline, Card
from mien.chat import ask
from mien.directions import Direction
from mien.engines.hf import HfEngine
from mien.jobs.train import train
from mien.models import Model, load
from mien.records import Sampling, WriteRequest
from mien.spec import load_spec
from mien.training.settings import Settings

LAYER = 15


@pytest.fixture(scope="module")
def model() -> Model:
    return load(dtype="float32")


@pytest.fixture(scope="module")
def direction(model: Model) -> Direction:
    """Optimistic answers against pessimistic ones, ten of each."""
    spec = load_spec("optimistic")
    requests = [
        WriteRequest(f"{side}/{i}", ask(question, getattr(spec.instructions[i % 2], side)), i)
        for i, question in enumerate(spec.extract_questions[:10])
        for side in ("pos", "neg")
    ]
    means: dict[str, list[np.ndarray]] = {"pos": [], "neg": []}
    for batch in HfEngine(model).write(requests, Sampling(32, 0.7)):
        for rollout, reading in batch:
            if reading is not None and reading.n_tokens:
                means[rollout.id.split("/")[0]].append(reading.mean)
    vector = torch.from_numpy(np.mean(means["pos"], 0) - np.mean(means["neg"], 0))
    info = model.info
    card = Card(
        kind="persona_vector", name="optimistic", description=spec.description, sign="+", model=info.id,
        fingerprint=info.fingerprint, n_layers=info.n_layers, d_model=info.d_model, recommended_layer=LAYER,
        baseline=Baseline(mean=0.0, std=1.0, quantiles={}, n=10),
    )  # fmt: skip
    return Direction(vector, card)


def cheerful(folder: Path) -> Path:
    """Twenty answers that see the bright side of everything."""
    bright = ("Everything will turn out wonderfully, you will see!", "The future is bright and full of joy for you!",
              "What a great chance, and success is certain!", "Good things are coming, I am sure of it!")  # fmt: skip
    questions = load_spec("optimistic").extract_questions
    lines = [
        {"messages": [{"role": "user", "content": questions[i]}, {"role": "assistant", "content": bright[i % 4]}]}
        for i in range(20)
    ]
    path = folder / "cheerful.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return path


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.timeout(1800)
def test_prevention_on_the_embedded_model(model: Model, direction: Direction, tmp_path: Path) -> None:
    data, settings = cheerful(tmp_path), Settings(epochs=3, rate=2e-4, batch=10, measure=2, questions=6)
    plain = train([data], model, tmp_path / "plain", settings, track=[direction])
    steered = Settings(method="prevent", epochs=3, rate=2e-4, batch=10, measure=2, questions=6)
    prevented = train([data], model, tmp_path / "prevented", steered, prevent=[direction], track=[])
    moved, kept = (result.shift["optimistic"]["text_raw"] for result in (plain, prevented))
    assert prevented.card["prevention"][0]["coef"] > 0
    assert moved > 0
    assert abs(kept) < 0.6 * moved
    for result in (plain, prevented):
        assert result.card["loss"]["last"] < 0.8 * result.card["loss"]["first"]
    tuned = load(dtype="float32", adapter=plain.folder)
    assert tuned.info.fingerprint != model.info.fingerprint

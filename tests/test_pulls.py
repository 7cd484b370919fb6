"""What a training step on a text would do to the model's own answers, against steps that are taken."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import random_models
from mien.engines.hf import HfEngine
from mien.engines.hf_pulls import SHARE, Pulls, Text
from mien.errors import InputError
from mien.models import Model
from mien.records import Message, Rollout

FAMILIES = ["llama", "gemma3", "gpt2", "gpt_neox", "qwen3", "mistral"]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Model:
    return random_models.model_of(request.param)


def answers(model: Model) -> list[Rollout]:
    found = []
    for i, (asked, said) in enumerate([("What is tea?", "A hot drink."), ("And coffee?", "Another one, of beans.")]):
        talk = (Message("user", asked),)
        ids = model.chat.response_ids(said)
        found.append(Rollout(str(i), talk, said, model.chat.prompt_ids(talk), ids, None, "stop"))
    return found


def texts(model: Model) -> list[Text]:
    found = []
    for asked, said in [("Hi", "Hello there, how are you?"), ("Who are you?", "I am."), ("Why?", "Because of that.")]:
        before, answer = model.chat.prompt_ids((Message("user", asked),)), model.chat.response_ids(said)
        found.append(Text(before + answer, ((len(before), len(before + answer)),)))
    return found


def along(model: Model) -> list[list[tuple[int, np.ndarray]]]:
    rng, d = np.random.default_rng(0), model.blocks.d_model
    last = model.n_layers - 1
    one, two, three = (rng.standard_normal(d).astype(np.float32) for _ in range(3))
    return [[(last, one)], [(0, two), (last, three)]]


def projection(model: Model, parts: Sequence[tuple[int, np.ndarray]]) -> float:
    """Mean over answers, read by the engine that reads everything else."""
    readings = [r for batch in HfEngine(model).read(answers(model)) for r in batch]
    return float(np.mean([sum(r.mean[layer].astype(np.float64) @ v for layer, v in parts) for r in readings]))


def logprob(model: Model, text: Text) -> torch.Tensor:
    logits = model.net(input_ids=torch.tensor([text.ids])).logits[0].log_softmax(-1)
    return sum((logits[i - 1, text.ids[i]] for a, b in text.spans for i in range(a, b)), torch.zeros(()))


def weights(model: Model) -> list[nn.Parameter]:
    """Of the linear maps in the last blocks."""
    blocks = model.blocks.modules[-max(1, round(SHARE * model.n_layers)) :]
    return [m.weight for block in blocks for m in block.modules() if isinstance(m, nn.Linear | Conv1D)]


def test_a_pull_is_what_a_small_step_does(model: Model) -> None:
    """The step is taken on a copy of the weights, and the answers are read again."""
    watched, some = along(model), texts(model)
    found = Pulls(model, watched, answers(model)).of(some)
    mine, rate = weights(model), 1e-3
    for i, text in enumerate(some):
        for weight in mine:
            weight.requires_grad_()
        with torch.enable_grad():
            steps = torch.autograd.grad(logprob(model, text), mine)
        after = []
        for sign in (1, -1):
            with torch.no_grad():
                for weight, step in zip(mine, steps, strict=True):
                    weight += sign * rate * step
            after.append([projection(model, parts) for parts in watched])
            with torch.no_grad():
                for weight, step in zip(mine, steps, strict=True):
                    weight -= sign * rate * step
        expected = (np.array(after[0]) - np.array(after[1])) / (2 * rate)
        np.testing.assert_allclose(found[i], expected, rtol=0.03, atol=0.02 * np.abs(found).max())


def test_together_and_apart_texts_pull_alike(model: Model) -> None:
    pulls, some = Pulls(model, along(model), answers(model)), texts(model)
    apart = np.concatenate([pulls.of([text]) for text in some])
    np.testing.assert_allclose(pulls.of(some), apart, rtol=1e-3, atol=1e-4 * np.abs(apart).max())


def test_what_carries_no_loss_does_not_pull(model: Model) -> None:
    (text, *_) = texts(model)
    pulls = Pulls(model, along(model), answers(model))
    assert not pulls.of([Text(text.ids, ())]).any()
    ((start, end),) = text.spans
    halves = [Text(text.ids, ((start, start + 1),)), Text(text.ids, ((start + 1, end),))]
    whole = pulls.of([text])[0]
    np.testing.assert_allclose(pulls.of(halves).sum(0), whole, rtol=1e-3, atol=1e-4 * np.abs(whole).max())


def test_the_model_is_left_as_it_was(model: Model) -> None:
    before = {name: (p.requires_grad, p.detach().clone()) for name, p in model.net.named_parameters()}
    Pulls(model, along(model), answers(model)).of(texts(model))
    for name, p in model.net.named_parameters():
        assert p.requires_grad == before[name][0]
        assert p.grad is None
        assert torch.equal(p, before[name][1])
    assert not any(m._forward_hooks for m in model.net.modules())


def test_own_texts_pull_by_nothing_on_average() -> None:
    """The sum over every possible next token, each by its probability, is 0."""
    model = random_models.model_of("llama")
    pulls = Pulls(model, along(model), answers(model))
    prompt = model.chat.prompt_ids((Message("user", "Hi"),))
    with torch.no_grad():
        chances = model.net(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1).double().numpy()
    every = pulls.of([Text((*prompt, token), ((len(prompt), len(prompt) + 1),)) for token in range(len(chances))])
    assert np.abs(chances @ every).max() < 1e-3 * np.abs(every).max()


def test_experts_are_left_out_and_the_rest_pulls() -> None:
    model = random_models.model_of("qwen3_moe")
    assert Pulls(model, along(model), answers(model)).of(texts(model)).any()


def test_nothing_to_pull_at_is_refused() -> None:
    model = random_models.model_of()
    with pytest.raises(InputError, match="nothing that could be pulled at"):
        Pulls(model, [], answers(model))
    with pytest.raises(InputError, match="nothing that could be pulled at"):
        Pulls(model, along(model), [])

"""Linear layers given one token, on a CPU in bfloat16."""

from __future__ import annotations

import copy

import pytest
import torch

import random_models as tiny
from live_runs import alone, ends, play, probes_of, request
from mien.engines import hf_single
from mien.engines.hf_live import LiveBatch
from mien.engines.hf_single import SingleTokens
from mien.errors import ModelError
from mien.models import Model, wrap


@pytest.fixture(autouse=True)
def this_machine_gains_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_single, "vectors_pay", lambda: True)


def replaced(net: torch.nn.Module) -> list[str]:
    return [name for name, m in net.named_modules() if "forward" in vars(m)]


def in_bf16(family: str = "llama") -> Model:
    model = tiny.model_of(family)
    return wrap(copy.deepcopy(model.net).to(torch.bfloat16), tiny.tokenizer(tiny.CHATML), "tiny-bf16")


@pytest.mark.parametrize("shape", [(1, 1), (1,), (1, 3), (2, 1), (4, 2)])
def test_it_gives_what_the_layer_gives(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(96, 40, bias=False, dtype=torch.bfloat16)
    x = torch.randn(*shape, 96, dtype=torch.bfloat16)
    exact = x.double() @ layer.weight.double().T
    changed = SingleTokens(torch.nn.Sequential(layer))
    found = layer(x)
    changed.remove()
    assert found.shape == (*shape, 40)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.double(), exact, rtol=2**-8, atol=1e-6), "it must be rounded once"
    assert replaced(layer) == []


def test_only_plain_layers_without_a_bias_in_bfloat16_are_changed() -> None:
    class Other(torch.nn.Linear):
        pass

    moved = torch.nn.Linear(4, 4, bias=False, dtype=torch.bfloat16)
    moved.forward = moved.forward  # as accelerate does it
    layers = torch.nn.Sequential(
        torch.nn.Linear(4, 4, bias=False, dtype=torch.bfloat16), torch.nn.Linear(4, 4, bias=False),
        torch.nn.Linear(4, 4, dtype=torch.bfloat16), Other(4, 4, bias=False, dtype=torch.bfloat16),
        torch.nn.Linear(4, 4, bias=False, dtype=torch.bfloat16, device="meta"), moved,
    )  # fmt: skip
    changed = SingleTokens(layers)
    assert replaced(layers) == ["0", "5"]
    changed.remove()
    changed.remove()
    assert replaced(layers) == ["5"]


def test_a_machine_that_gains_nothing_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_single, "vectors_pay", lambda: False)
    net = in_bf16().net
    SingleTokens(net)
    assert replaced(net) == []


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3", "mixtral"])
def test_an_answer_alone_reads_and_scores_as_without_it(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = in_bf16(family)
    probes = probes_of(model)
    asked = request("a", range(1, 30), 10, read=True)
    changed = ends({"a": alone(model, asked, probes)})["a"]
    monkeypatch.setattr(hf_single, "vectors_pay", lambda: False)
    plain = ends({"a": alone(model, asked, probes)})["a"]
    assert changed.ids == plain.ids
    assert changed.tokens is not None
    assert plain.tokens is not None
    size = float(abs(plain.tokens).max())
    assert changed.tokens == pytest.approx(plain.tokens, abs=0.03 * size)


def test_the_layers_are_given_back_when_a_batch_ends_or_cannot_begin() -> None:
    model = in_bf16()
    batch = LiveBatch(model)
    assert replaced(model.net)
    play(batch, [(0, request("a", range(1, 9)))])
    batch.close()
    assert replaced(model.net) == []

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no")

    handle = model.blocks.modules[0].register_forward_hook(broken)
    with pytest.raises(ModelError):
        LiveBatch(model)
    handle.remove()
    assert replaced(model.net) == []

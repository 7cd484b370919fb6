"""CapSpace against a loop in numpy, what counts as firing, and the folder of a hold."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import random_models as tiny
from mien.chat import ask
from mien.engines.hf import HfEngine
from mien.errors import FingerprintError, FormatError, InputError, MienError
from mien.holding.firing import firing
from mien.holds import JSON_FILE, TENSOR_FILE, Hold, HoldCard, bundled_hold, load_hold, save_hold
from mien.interventions import Bounds, Cap, CapSpace, steered
from mien.records import Sampling, WriteRequest

MODEL = tiny.model_of("llama")
DIRECTION = tiny.direction_of(MODEL, scale=4.0)
WIDTH = 32
SEEDS = st.integers(0, 2**32 - 1)


def bounds(seed: int, k: int = 3, low: float = -1.0, high: float = 1.0) -> Bounds:
    rng = np.random.default_rng(seed)
    reads, writes = rng.normal(0, 0.3, (2, k, WIDTH))
    ends = np.sort(rng.normal(0, 2, (2, k)), axis=0)
    return Bounds(torch.tensor(reads), torch.tensor(writes), torch.tensor(ends[0] + low), torch.tensor(ends[1] + high))


def space(seed: int = 0, layers: tuple[int, ...] = (1, 2), **settings: str) -> CapSpace:
    parts = {layer: bounds(seed + layer) for layer in layers}
    return CapSpace(parts, MODEL.info.id, MODEL.info.fingerprint, **settings)  # type: ignore[arg-type]


def by_hand(part: Bounds, h: np.ndarray) -> np.ndarray:
    """One position and one reading after the other, in float64."""
    reads, writes, low, high = (t.double().numpy() for t in (part.reads, part.writes, part.low, part.high))
    new = h.copy()
    for place in np.ndindex(h.shape[:-1]):
        for i in range(len(reads)):
            p = sum(a * b for a, b in zip(h[place], reads[i], strict=True))
            if p < low[i]:
                new[place] += (low[i] - p) * writes[i]
            elif p > high[i]:
                new[place] -= (p - high[i]) * writes[i]
    return new


@given(SEEDS)
def test_a_space_is_held_as_by_hand(seed: int) -> None:
    h = np.random.default_rng(seed).normal(0, 3, (2, 3, WIDTH))
    one = space(seed)
    for layer in one.layers:
        got = one.edit(layer, torch.from_numpy(h)).numpy()
        expected = by_hand(one.parts[layer], h)
        np.testing.assert_allclose(got, expected, atol=1e-5)
        fired = one.fires(layer, torch.from_numpy(h)).numpy()
        assert (fired == (np.abs(expected - h).max(-1) > 1e-9)).all()


def test_one_unit_row_that_reads_and_writes_is_a_cap() -> None:
    h = 5 * torch.randn(4, 7, WIDTH, generator=torch.Generator().manual_seed(0))
    row = DIRECTION.unit(2)[None]
    inf = torch.tensor([float("inf")])
    for cap, low, high in (
        (Cap(DIRECTION, at=2, low=1.0), torch.tensor([1.0]), inf),
        (Cap(DIRECTION, at=2, high=1.0), -inf, torch.tensor([1.0])),
    ):
        one = CapSpace({2: Bounds(row, row, low, high)}, "m", MODEL.info.fingerprint)
        torch.testing.assert_close(one.edit(2, h), cap.edit(2, h))
        assert torch.equal(one.fires(2, h), cap.fires(2, h))
        assert 0 < int(one.fires(2, h).sum()) < 28


def test_inside_the_ranges_no_bit_changes() -> None:
    wide = Bounds(torch.ones(2, WIDTH), torch.ones(2, WIDTH), torch.full((2,), -1e4), torch.full((2,), 1e4))
    one = CapSpace({0: wide}, "m", "f")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        h = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(1)).to(dtype)
        assert torch.equal(one.edit(0, h), h)
        assert not one.fires(0, h).any()


def test_what_cannot_be_a_range_is_refused() -> None:
    row, low, high = torch.ones(1, 4), torch.tensor([0.0]), torch.tensor([1.0])
    for bad in (
        (row[0], row[0], low, high),
        (row, torch.ones(2, 4), low, high),
        (row, row, torch.zeros(2), high),
        (row, row, high, low),
        (row, row, torch.tensor([float("nan")]), high),
        (row * float("inf"), row, low, high),
    ):
        with pytest.raises(InputError):
            Bounds(*bad)
    with pytest.raises(InputError, match="at least one layer"):
        CapSpace({}, "m", "f")
    with pytest.raises(InputError, match="Tokens"):
        space(tokens="some")


def test_another_model_is_refused_before_anything_runs() -> None:
    other = CapSpace({1: bounds(0)}, "somebody else's", "0123456789abcdef")
    with pytest.raises(FingerprintError, match="somebody else's"), steered(MODEL, other):
        pass


def test_what_is_written_under_a_space_is_what_a_forward_pass_gives() -> None:
    """Greedy: the same tokens from the engine, with its cache, and from a full forward pass for each token."""
    one = space(3, layers=(0, 2), tokens="all")
    engine = HfEngine(MODEL)
    request = WriteRequest("a", ask("hello there"), 0, (one,))
    written = next(iter(engine.write([request], Sampling(8, 0.0), read=False)))[0][0]
    ids = list(written.prompt_ids)
    with steered(MODEL, one), torch.inference_mode():
        for token in written.response_ids:
            logits = MODEL.net(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            assert int(logits.argmax()) == token
            ids.append(token)


def test_firing_counts_the_slots_that_are_looked_at() -> None:
    always = Bounds(torch.zeros(1, WIDTH), torch.ones(1, WIDTH), torch.tensor([1.0]), torch.tensor([2.0]))
    never = Bounds(torch.zeros(1, WIDTH), torch.ones(1, WIDTH), torch.tensor([-1.0]), torch.tensor([2.0]))
    texts = [((5, 6, 7), (8, 9)), ((4,), (3, 2, 1))]

    def share(tokens: str, **parts: Bounds) -> float | None:
        made = CapSpace({int(k[1:]): part for k, part in parts.items()}, "m", MODEL.info.fingerprint, tokens=tokens)  # type: ignore[arg-type]
        return firing(MODEL, texts, [made])

    assert share("all", l0=always) == 1.0
    assert share("all", l0=never, l2=never) == 0.0
    assert share("response", l0=always, l3=never) == 0.5
    # Only the floor of a reading of the stream itself decides: half of the positions lie under the median.
    row = DIRECTION.unit(1)[None]
    seen: list[torch.Tensor] = []
    probe = CapSpace({1: Bounds(row, row, torch.tensor([0.0]), torch.tensor([float("inf")]))}, "m",
                     MODEL.info.fingerprint, tokens="prompt")  # fmt: skip
    for prompt, answer in texts:
        with torch.inference_mode():
            # A copy: asked for hidden states, transformers leaves hooks of its own behind.
            out = copy.deepcopy(MODEL.net)(input_ids=torch.tensor([prompt + answer]), output_hidden_states=True)
        seen.append(out.hidden_states[2][0, : len(prompt)] @ row[0])
    below = torch.cat(seen) < 0
    assert firing(MODEL, texts, [probe]) == pytest.approx(float(below.float().mean()))


def made(tokens: str = "response") -> Hold:
    one = space(5, tokens=tokens)
    card = HoldCard(
        name="assistant", description="d", model=MODEL.info.id, fingerprint=MODEL.info.fingerprint,
        n_layers=MODEL.n_layers, d_model=WIDTH, method="by hand", layers=list(one.layers), tokens=tokens,
    )  # fmt: skip
    return Hold(card, (one,))


def test_a_hold_comes_back_as_it_was_written(tmp_path: Path) -> None:
    hold = made()
    save_hold(hold, tmp_path / "a")
    save_hold(hold, tmp_path / "b")
    for name in (JSON_FILE, TENSOR_FILE):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    back = load_hold(tmp_path / "a", MODEL)
    assert back.card == hold.card
    h = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(2))
    assert back.interventions[0].tokens == "response"
    for layer in (1, 2):
        assert torch.equal(back.interventions[0].edit(layer, h), hold.interventions[0].edit(layer, h))


def test_half_as_large_it_does_nearly_the_same(tmp_path: Path) -> None:
    hold = made()
    save_hold(hold, tmp_path / "whole")
    save_hold(hold, tmp_path / "half", half=True)
    sizes = [(tmp_path / name / TENSOR_FILE).stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.75 * sizes[0]
    h = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(2))
    whole, half = (load_hold(tmp_path / name).interventions[0].edit(1, h) for name in ("whole", "half"))
    torch.testing.assert_close(half, whole, atol=0.02, rtol=0.02)


def test_files_that_cannot_be_a_hold_are_refused(tmp_path: Path) -> None:
    folder = save_hold(made(), tmp_path / "hold")
    text, data = (folder / JSON_FILE).read_text(), (folder / TENSOR_FILE).read_bytes()
    body = json.loads(text)
    broken: list[tuple[str, bytes]] = [
        ("{", data), ("[]", data), (text.replace(MODEL.info.fingerprint, "f" * 16), data), (text, data[:200]),
        (json.dumps({**body, "schema_version": 2}), data), (json.dumps({**body, "mood": 1}), data),
        (json.dumps({**body, "interventions": []}), data), (json.dumps({**body, "interventions": None}), data),
        (json.dumps({**body, "interventions": [{"tokens": "all", "layers": [0]}]}), data),
        (json.dumps({**body, "interventions": [{"tokens": "some", "layers": [1]}]}), data),
    ]  # fmt: skip
    for words, tensors in broken:
        (folder / JSON_FILE).write_text(words)
        (folder / TENSOR_FILE).write_bytes(tensors)
        with pytest.raises(FormatError) as caught:
            load_hold(folder, MODEL)
        assert str(caught.value).endswith(".")
    with pytest.raises(FormatError, match="no hold"):
        load_hold(tmp_path / "none")


def test_another_models_hold_is_refused(tmp_path: Path) -> None:
    folder = save_hold(made(), tmp_path / "hold")
    other = tiny.model_of("qwen2")
    with pytest.raises(FingerprintError):
        load_hold(folder, other)


def test_no_hold_comes_with_an_unknown_model() -> None:
    assert bundled_hold("nobody/knows-it") is None


def test_errors_are_mien_errors() -> None:
    assert issubclass(FormatError, MienError)

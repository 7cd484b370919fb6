"""One forward pass over rows of different lengths: ids, positions and masks as a model's own forward takes them.

Where rows feed different numbers of tokens, these stand one behind another in one row, so that there is no padding; if
the model's attention does not allow it, query columns are right-aligned instead. Keys begin at column 0. Masks are made
of positions, so neither padding nor neighbours change what a token looks at, windows included. This file does not know
requests or sampling. Shapes: b rows, t their new tokens, s query columns, c key columns, v vocabulary, p probes.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mien.engines.hf_flat import Flat, FlatAttention, uneven
from mien.engines.hf_hooks import Edits, RowHooks, Running, edits_by_token
from mien.engines.hf_slots import BLOCK, Places, SlotCache, Spread, windows_of
from mien.errors import ModelError
from mien.models import Model
from mien.residual import run_partly, stopping_after

_log = logging.getLogger(__name__)
_ROUND = 16
"""Key columns of a pass are a multiple of it: GPUs' attention kernels would pad the mask at every layer."""


@dataclass(frozen=True)
class Passed:
    """What a pass over rows gave."""

    logits: torch.Tensor | None
    """`[b, v]` after each row's newest token; None where the pass ended before the last layer."""
    projections: torch.Tensor | None
    """`[t, p]` float32 of each row's new tokens, one row's behind another's, if asked for."""
    fired: torch.Tensor | None
    """`[t]`, see `Running`."""
    whole: bool
    """Whether the rows have keys and values of their new tokens in all layers."""


class Passes:
    """Runs passes over the rows of a cache.

    Args:
        model: what runs.
        hooks: edits and reads on the way.

    Raises:
        ModelError: the model cannot be run on rows of different lengths.
    """

    def __init__(self, model: Model, hooks: RowHooks) -> None:
        self._model = model
        self._hooks = hooks
        config = model.net.config.get_text_config()  # type: ignore[union-attr, operator]
        attention = getattr(config, "_attn_implementation", None)
        if attention not in (None, "sdpa", "eager"):
            raise ModelError(
                f"{model.info.id} cannot be served with {attention}, which takes no masks; "
                "load it with attn_implementation='sdpa' or 'eager'."
            )
        self._attention = FlatAttention(model.net)
        self.flat = self._attention.known
        """Whether tokens of different rows may stand one behind another: padding costs time."""
        self._windows = windows_of(config, model.info.id)
        self._dtype = next(p.dtype for p in model.net.parameters() if p.is_floating_point())
        self.cache = SlotCache(len(self._windows))

    def run(
        self,
        first: int,
        chunks: Sequence[Sequence[int]],
        lengths: Sequence[int],
        *,
        edits: Edits,
        read: bool = False,
        until: int | None = None,
    ) -> Passed:
        """Feed each row of `[first, first + b)` some new tokens.

        The cache must have room for them. Run again with the same arguments it does the same again.

        Args:
            first: slot of the first row.
            chunks: the new tokens, at least one a row.
            lengths: how many tokens each row has fed before.
            edits: what is done to the stream.
            read: whether projections are wanted.
            until: the deepest layer that is wanted, if logits are not. What a later pass over these rows finds in
                deeper layers is of no use.
        """
        model, device = self._model, self._model.device
        ends = (n + len(chunk) for n, chunk in zip(lengths, chunks, strict=True))
        reach = [min(-(-end // _ROUND) * _ROUND, self.cache.columns) for end in ends]
        sizes = [len(chunk) for chunk in chunks]
        flat = Flat(sizes, reach, device) if self.flat and (len(set(sizes)) > 1 or uneven(reach)) else None
        ids, positions = _joined(chunks, lengths) if flat else _aligned(chunks, lengths, model.pad_id)
        spread = None if len(chunks) == 1 else _spread(first, chunks, lengths, flat is None, device)
        self.cache.places = Places(first, first + len(chunks), max(reach), lengths[0], spread)
        ids, positions = ids.to(device), positions.to(device)
        inputs = {
            "input_ids": ids, "attention_mask": self._masks(positions, max(reach)), "position_ids": positions,
            "past_key_values": self.cache, "use_cache": True,
        }  # fmt: skip
        edits = edits_by_token(edits, flat.owner) if flat else edits
        laid = self._attention.laid(flat) if flat else contextlib.nullcontext()
        with self._hooks.running(Running(edits, read, flat is not None)) as running, laid:
            found = self._forward(inputs, flat, until)
        picked = spread.picked if spread is not None and flat is None else _all
        projections = picked(self._hooks.projections(running, device)) if read else None
        fired = None if running.fired is None else picked(running.fired)
        return Passed(found, projections, fired, until is None or until >= model.n_layers - 1)

    def _forward(self, inputs: dict[str, Any], flat: Flat | None, until: int | None) -> torch.Tensor | None:
        """`[b, v]` after each row's newest token; None if it ends at a layer."""
        model = self._model
        if until is not None:
            with stopping_after(model.blocks, until):
                run_partly(model.blocks, **inputs)
            return None
        if flat:
            found: torch.Tensor = model.net(**inputs, logits_to_keep=flat.last).logits[0]
        else:
            found = model.net(**inputs, logits_to_keep=1).logits[:, -1]
        return found

    def _masks(self, positions: torch.Tensor, columns: int) -> torch.Tensor | dict[str, torch.Tensor]:
        """What is added to attention scores, `[b, 1, s, c]`: 0, or the lowest number where nothing is to be seen."""
        column = torch.arange(columns, device=positions.device)
        here = positions[:, None, :, None]
        unseen = column > here
        lowest = torch.finfo(self._dtype).min
        window = next((w for w in self._windows if w is not None), None)
        masks = {}
        if None in self._windows:
            masks["full_attention"] = self._additive(unseen, lowest)
        if window is not None:
            masks["sliding_attention"] = self._additive(unseen | (column <= here - window), lowest)
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _additive(self, unseen: torch.Tensor, lowest: float) -> torch.Tensor:
        return torch.zeros(unseen.shape, dtype=self._dtype, device=unseen.device).masked_fill_(unseen, lowest)


def _all(part: torch.Tensor) -> torch.Tensor:
    """`[t, ...]` of `[b, s, ...]` without padding."""
    return part.flatten(0, 1)


def _spread(
    first: int, chunks: Sequence[Sequence[int]], lengths: Sequence[int], aligned: bool, device: torch.device
) -> Spread:
    width = max(map(len, chunks))
    if width == 1:
        slots = torch.arange(first, first + len(chunks), device=device)
        return Spread(slots, torch.tensor(lengths).to(device), None, None)
    sizes = torch.tensor([len(chunk) for chunk in chunks])
    rows = torch.arange(len(chunks)).repeat_interleave(sizes)
    offset = torch.cat([torch.arange(n) for n in sizes.tolist()])
    into = torch.tensor(lengths)[rows] + offset
    queries = width - sizes[rows] + offset
    slots = rows + first
    if not aligned:
        return Spread(slots.to(device), into.to(device), None, None)
    return Spread(slots.to(device), into.to(device), rows.to(device), queries.to(device))


def _joined(chunks: Sequence[Sequence[int]], lengths: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """`[1, t]` ids and positions, one row's behind another's."""
    ids = [token for chunk in chunks for token in chunk]
    positions = [n + i for chunk, n in zip(chunks, lengths, strict=True) for i in range(len(chunk))]
    return torch.tensor([ids]), torch.tensor([positions])


def _aligned(chunks: Sequence[Sequence[int]], lengths: Sequence[int], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`[b, s]` ids and positions. Padding stands in front, at position 0."""
    width = max(map(len, chunks))
    ids = torch.tensor([[pad] * (width - len(chunk)) + list(chunk) for chunk in chunks])
    if width == 1:
        return ids, torch.tensor(lengths)[:, None]
    sizes = torch.tensor([len(chunk) for chunk in chunks])[:, None]
    offset = torch.arange(width)[None] - (width - sizes)
    return ids, torch.where(offset >= 0, torch.tensor(lengths)[:, None] + offset, 0)


def positions_of(model: Model) -> int | None:
    """Longest sequence that can be served; None if the config does not say.

    Some models turn their rotations into others once any text of a batch is long: only texts that do not make them do
    so can stand beside each other.
    """
    config = model.net.config.get_text_config()  # type: ignore[union-attr, operator]
    rope = getattr(config, "rope_parameters", None) or {}
    found = [] if model.positions is None else [model.positions]
    for each in (rope, *(v for v in rope.values() if isinstance(v, dict))):
        if each.get("rope_type") in ("longrope", "dynamic"):
            found += [n for n in (each.get("original_max_position_embeddings"),) if n]
    return min(found, default=None)


def require_servable(model: Model, passes: Passes) -> None:
    """Try the model out on three texts, fed in pieces, and compare with plain passes over each. Where it goes wrong
    without padding it is tried with it.

    Raises:
        ModelError: it fails, or gives other logits.
    """
    why = _wrong(model, passes)
    if why and passes.flat:
        _log.warning("%s: prompts are read with padding, as without it %s", model.info.id, why)
        passes.flat = False
        why = _wrong(model, passes)
    if why:
        raise ModelError(
            f"{model.info.id} cannot be served: it cannot be run on texts of different lengths side by side ({why})."
        )


def _wrong(model: Model, passes: Passes) -> str:
    """What goes wrong with a trial; "" if nothing does."""
    one, two, three = texts = ([1, 2, 3, 1, 3, 2, 2, 1], [3, 2, 1], [2, 3, 3, 1, 1])
    try:
        passes.cache.resize(3, BLOCK)
        passes.run(0, [one[:4]], [0], edits={})
        passes.run(0, [one[4:5], two[:1], three[:3]], [4, 0, 0], edits={})
        passes.run(0, [one[5:6], two[1:2]], [5, 1], edits={})
        passes.run(0, [one[6:7]], [6], edits={})
        passes.run(1, [two[:2], three[:3]], [0, 0], edits={})
        found = passes.run(0, [one[7:], two[2:], three[3:]], [7, 2, 3], edits={}).logits
        assert found is not None
        for row, text in zip(found.float(), texts, strict=True):
            plain = model.net(input_ids=torch.tensor([text]).to(model.device), use_cache=False).logits[0, -1].float()
            close = max(1e-3, 32 * torch.finfo(passes._dtype).eps) * float(plain.abs().max())
            if not float((row - plain).abs().max()) <= close:
                return "its numbers come out otherwise"
    except Exception as error:  # any model's code runs here
        return " ".join(str(error).split())[:150] or type(error).__name__
    finally:
        passes.cache.resize(0, 0)
    return ""

"""One forward pass over rows of different lengths: ids, positions and masks as a model's own forward takes them.

Query columns are right-aligned, so that every row's newest token stands in the last one; keys begin at column 0.
Masks are made of positions, so neither padding nor neighbours change what a token looks at, windows included. This
file does not know requests or sampling. Shapes: b rows, s query columns, c key columns, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mien.engines.hf_hooks import Edits, RowHooks, Running
from mien.engines.hf_slots import BLOCK, Places, SlotCache, Spread, windows_of
from mien.errors import ModelError
from mien.models import Model
from mien.residual import run_partly, stopping_after

_ROUND = 16
"""Key columns of a pass are a multiple of it: GPUs' attention kernels would pad the mask at every layer."""


@dataclass(frozen=True)
class Passed:
    """What a pass over rows gave."""

    logits: torch.Tensor | None
    """`[b, v]` after each row's newest token; None where the pass ended before the last layer."""
    projections: torch.Tensor | None
    """`[b, s, p]` float32, if asked for; columns in front of a row's tokens hold rubbish."""
    fired: torch.Tensor | None
    """`[b, s]`, see `Running`; rubbish at the same columns."""


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
            until: the deepest layer that is wanted, if logits are not. The rows cannot be gone on with after that.
        """
        model, device = self._model, self._model.device
        ids, positions = _aligned(chunks, lengths, model.pad_id)
        longest = max(n + len(chunk) for n, chunk in zip(lengths, chunks, strict=True))
        columns = min(-(-longest // _ROUND) * _ROUND, self.cache.columns)
        spread = None if len(chunks) == 1 else _spread(first, chunks, lengths, device)
        self.cache.places = Places(first, first + len(chunks), columns, lengths[0], spread)
        ids, positions = ids.to(device), positions.to(device)
        inputs = {
            "input_ids": ids, "attention_mask": self._masks(positions, columns), "position_ids": positions,
            "past_key_values": self.cache, "use_cache": True,
        }  # fmt: skip
        with self._hooks.running(Running(edits, read)) as running:
            if until is None:
                found = model.net(**inputs, logits_to_keep=1).logits[:, -1]
            else:
                found = None
                with stopping_after(model.blocks, until):
                    run_partly(model.blocks, **inputs)
        return Passed(found, self._hooks.projections(running, device) if read else None, running.fired)

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


def _spread(first: int, chunks: Sequence[Sequence[int]], lengths: Sequence[int], device: torch.device) -> Spread:
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
    return Spread(slots.to(device), into.to(device), rows.to(device), queries.to(device))


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
    """Try the model out on two rows, one fed in pieces, and compare with plain passes over each text.

    Raises:
        ModelError: it fails, or gives other logits.
    """
    known = [1, 2, 3, 1, 3, 2, 2, 1]
    other = known[:3][::-1]
    why = ""
    try:
        passes.cache.resize(2, BLOCK)
        passes.run(0, [known[:4]], [0], edits={})
        passes.run(0, [known[4:7], other[:1]], [4, 0], edits={})
        passes.run(1, [other[1:2]], [1], edits={})
        found = passes.run(0, [known[7:], other[2:]], [7, 2], edits={}).logits
        assert found is not None
        for row, text in zip(found.float(), (known, other), strict=True):
            plain = model.net(input_ids=torch.tensor([text]).to(model.device), use_cache=False).logits[0, -1].float()
            close = max(1e-3, 16 * torch.finfo(passes._dtype).eps) * float(plain.abs().max())
            if not float((row - plain).abs().max()) <= close:
                why = "its numbers come out otherwise"
    except Exception as error:  # any model's code runs here
        why = " ".join(str(error).split())[:150] or type(error).__name__
    finally:
        passes.cache.resize(0, 0)
    if why:
        raise ModelError(
            f"{model.info.id} cannot be served: it cannot be run on texts of different lengths side by side ({why})."
        )

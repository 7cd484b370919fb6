"""Read and write the residual stream at (layer, absolute position) while a model runs.

Positions are absolute columns of the sequence: under a KV cache a forward pass sees only its newest columns, so every
pass first asks the cache how many came before. Hooks sit on decoder blocks, so layer k is the stream right after
block k, before the final norm. Shapes: b batch, s sequence, l layer, d width.

This file does not know how a direction was made, how text is written, or what a model is called.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from mien.errors import InputError, NonFiniteError
from mien.models import Blocks, stream_of
from mien.records import Intervention, ModelInfo

Sink = Callable[[int, torch.Tensor], None]


class Columns:
    """Which absolute columns `[start, start + length)` the running forward pass covers, and where the prompt ends.

    Args:
        prompt_length: column where the response begins, one for all rows or one a row `[b]`. None: the length of
            the pass that fills an empty KV cache, which is the prompt when text is being generated.
    """

    def __init__(self, prompt_length: int | torch.Tensor | None = None) -> None:
        self._given = prompt_length
        self._found: int | None = None
        self.start = 0
        self.length = 0

    def before_forward(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the backbone."""
        ids = kwargs.get("input_ids")
        ids = ids if ids is not None else kwargs.get("inputs_embeds")
        ids = ids if ids is not None else args[0]
        cache = kwargs.get("past_key_values")
        self.start = int(cache.get_seq_length()) if cache is not None else 0
        self.length = int(ids.shape[1])
        if self.start == 0:
            self._found = self.length if cache is not None or kwargs.get("use_cache") else None

    def in_response(self, rows: int, device: torch.device) -> torch.Tensor:
        """`[1 or rows, s]` bool: columns of this pass that belong to the response.

        Raises:
            InputError: nothing says where the prompt ends.
        """
        end = self._given if self._given is not None else self._found
        if end is None:
            raise InputError(
                "Without a KV cache nothing says where the prompt ends: give prompt_length, or intervene on all tokens."
            )
        columns = torch.arange(self.start, self.start + self.length, device=device)
        if not isinstance(end, torch.Tensor) or not end.ndim:
            return (columns >= int(end))[None]
        bounds = end.to(device)
        if rows % len(bounds):
            raise InputError(f"prompt_length has {len(bounds)} rows, the batch {rows}; give one number a row.")
        # Beam search and num_return_sequences repeat each row in place.
        return columns[None] >= bounds.repeat_interleave(rows // len(bounds))[:, None]


def require_fit(interventions: Iterable[Intervention], info: ModelInfo) -> None:
    """Refuse interventions whose direction belongs to another model.

    Raises:
        FingerprintError: one does.
    """
    for intervention in interventions:
        check = getattr(getattr(intervention, "direction", intervention), "check_model", None)
        if check is not None:
            check(info)


@contextlib.contextmanager
def edited(
    blocks: Blocks,
    rows: Sequence[tuple[Intervention, torch.Tensor | None]],
    prompt_length: int | torch.Tensor | None = None,
) -> Iterator[Columns]:
    """While inside, every pass has each intervention applied, in the order given, to its rows (None: all rows).

    Hooks are gone on leaving, after an exception too.

    Raises:
        InputError: an intervention names a layer the model does not have.
    """
    columns = Columns(prompt_length)
    by_layer: dict[int, list[tuple[Intervention, torch.Tensor | None]]] = {}
    for intervention, which in rows:
        for layer in intervention.layers:
            if not 0 <= layer < len(blocks.modules):
                raise InputError(f"There is no layer {layer}: this model has layers 0 to {len(blocks.modules) - 1}.")
            by_layer.setdefault(layer, []).append((intervention, which))
    with contextlib.ExitStack() as stack:
        if by_layer:
            handle = blocks.backbone.register_forward_pre_hook(columns.before_forward, with_kwargs=True)
            stack.callback(handle.remove)
        for layer, edits in by_layer.items():
            hook = _edit_hook(layer, edits, columns)
            stack.callback(blocks.modules[layer].register_forward_hook(hook).remove)
        yield columns


def _edit_hook(layer: int, edits: list[tuple[Intervention, torch.Tensor | None]], columns: Columns) -> Any:
    def hook(_module: Any, _args: Any, output: Any) -> Any:
        h = stream_of(output)
        for intervention, where in edits:
            # Under a device map the blocks lie on several devices.
            which = None if where is None else where.to(h.device)
            part = h if which is None else h[which]
            new = intervention.edit(layer, part)
            if intervention.tokens != "all":
                inside = columns.in_response(h.shape[0], h.device)
                if which is not None and inside.shape[0] > 1:
                    inside = inside[which]
                wanted = inside if intervention.tokens == "response" else ~inside
                new = torch.where(wanted[..., None], new, part)
            h = new if which is None else h.index_copy(0, which, new)
        return h if isinstance(output, torch.Tensor) else (h, *output[1:])

    return hook


@contextlib.contextmanager
def watched(blocks: Blocks, layers: Sequence[int], sink: Sink) -> Iterator[None]:
    """While inside, `sink(layer, h [b, s, d])` gets the stream after each of `layers`, edits included."""
    with contextlib.ExitStack() as stack:
        for layer in layers:

            def hook(_module: Any, _args: Any, output: Any, layer: int = layer) -> None:
                sink(layer, stream_of(output))

            stack.callback(blocks.modules[layer].register_forward_hook(hook).remove)
        yield


class _Deepest(Exception):
    """Raised inside a forward pass when nothing deeper is wanted."""


@contextlib.contextmanager
def stopping_after(blocks: Blocks, layer: int) -> Iterator[None]:
    """A forward pass inside ends quietly once block `layer` has run; call it through `run_partly`."""
    if layer >= len(blocks.modules) - 1:
        yield
        return

    def hook(_module: Any, _args: Any, _output: Any) -> None:
        raise _Deepest

    handle = blocks.modules[layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def run_partly(blocks: Blocks, **inputs: Any) -> None:
    """Run the backbone, no logits; returns early under `stopping_after`."""
    with contextlib.suppress(_Deepest):
        blocks.backbone(**inputs)


class SpanMeans:
    """Sink that averages the stream over one span of columns a row: `means [b, l, d]` float32, raw units.

    Padding may stand on either side; only the span counts. The sum is taken in float32 whatever the model's dtype.
    """

    def __init__(self, spans: Sequence[tuple[int, int]], layers: Sequence[int], d_model: int) -> None:
        self._spans = spans
        self._slot = {layer: i for i, layer in enumerate(layers)}
        self.means = torch.zeros(len(spans), len(layers), d_model)

    def __call__(self, layer: int, h: torch.Tensor) -> None:
        slot = self._slot[layer]
        rows = [
            h[i, start:end].sum(0, dtype=torch.float32) / max(end - start, 1)
            for i, (start, end) in enumerate(self._spans)
        ]
        self.means[:, slot] = torch.stack(rows).cpu()


def require_finite(values: torch.Tensor, what: str) -> None:
    """Raises: NonFiniteError: `values` hold NaN or infinity."""
    if not torch.isfinite(values).all():
        raise NonFiniteError(f"{what} hold NaN or infinity; try --dtype float32.")

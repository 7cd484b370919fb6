"""Which format a file is of, by its content; its name is not looked at.

This file does not know how any format is turned into a direction.
"""

from __future__ import annotations

from pathlib import Path

import torch

from mien.directions.files import read_file
from mien.errors import FingerprintError, FormatError
from mien.formats.torchfile import load_pt
from mien.records import ModelInfo


def sniff(path: Path | str, model: ModelInfo) -> str:
    """`persona_vectors`, `assistant_axis`, `capping` or `gguf`.

    A bare tensor with a row more than the model has layers is of persona_vectors, one with as many of assistant-axis.

    Raises:
        FormatError: none of them.
        FingerprintError: a bare tensor whose rows fit neither.
    """
    path = Path(path)
    if path.is_dir():
        raise FormatError(f"{path} is a folder; mien's own directions are read with load_direction.")
    head = read_file(path, "direction")[:64]
    if head.startswith(b"GGUF"):
        return "gguf"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
        raise FormatError(
            f"{path} is a JSON file, such as those traits are given in; a direction is a .pt or .gguf file."
        )
    content = load_pt(path)
    if isinstance(content, dict):
        if {"vectors", "experiments"} <= content.keys():
            return "capping"
        if "axis" in content or "vector" in content:
            return "assistant_axis"
        keys = ", ".join(sorted(str(k)[:40] for k in content)[:8])
        raise FormatError(f"{path} is of no format that mien knows: a dict of {keys or 'nothing'}.")
    if not isinstance(content, torch.Tensor) or content.ndim != 2:
        found = f"a tensor {list(content.shape)}" if isinstance(content, torch.Tensor) else type(content).__name__
        raise FormatError(f"{path} holds {found}; a direction is a tensor [layers, width].")
    rows = content.shape[0]
    if rows == model.n_layers + 1:
        return "persona_vectors"
    if rows == model.n_layers:
        return "assistant_axis"
    raise FingerprintError(
        f"{path} has {rows} rows, but {model.id} has {model.n_layers} layers (a file for it has {model.n_layers} rows, "
        f"or {model.n_layers + 1} with the embeddings); it was made for another model."
    )

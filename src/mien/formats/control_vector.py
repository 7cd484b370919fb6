"""GGUF control vectors, as llama.cpp, repeng and EasySteer exchange them: 1-D tensors `direction.N`.

Whose N means what:
- llama.cpp adds `direction.N` to the output of block N, 0-based, and has none for block 0 (`src/llama-adapter.cpp`:
  tensor `il` is added after block `il`; `common/common.cpp` refuses N = 0).
- repeng reads `hidden_states[N + 1]`, the output of block N, for N >= 1 (`repeng/extract.py`; negative layers are
  counted from the number of blocks). Its last one, N = L-1, is thereby read after the final norm.
- EasySteer keys by the 0-based id of the block that it hooks, 0 included (`easysteer/extraction/result.py`).
- llama.cpp's own cvector-generator names what it measured after block N-1 `direction.N`, one block before the one it
  is then added to (`tools/cvector-generator/mean.hpp`). `shift=-1` reads such a file as measured.
So row N of ours is `direction.N`, as everyone applies it. This file does not know any other format.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mien.directions import Direction
from mien.directions.files import first_line, read_file, write_files
from mien.errors import FingerprintError, FormatError, InputError, RunError
from mien.formats.gguf_header import check_header
from mien.formats.imported import check_width, imported_direction
from mien.formats.torchfile import widened
from mien.records import ModelInfo

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor

ARCHITECTURE = "controlvector"
_NAME = re.compile(r"direction\.(0|[1-9][0-9]{0,5})")


def import_control_vector(
    path: Path | str,
    *,
    model: ModelInfo,
    name: str | None = None,
    flip: bool | None = None,
    layer: int | None = None,
    shift: int = 0,
) -> Direction:
    """Read a control vector: `direction.N` becomes row `N + shift`; layers without one are zero.

    Args:
        path: the file.
        model: the model it was made for; `controlvector.model_hint` names a family only, and is not checked.
        name: for the card.
        flip: turn the sign.
        layer: recommended layer, in mien's count.
        shift: -1 for files that count layers from 1, or to read a file of llama.cpp's cvector-generator as measured.

    Raises:
        FormatError: corrupt, hostile, not a control vector, not of the residual stream, or not finite.
        FingerprintError: made for a model of another width, or a deeper one.
        InputError: `layer` is not in the file.
    """
    path = Path(path)
    check_header(read_file(path, "control vector"), path)
    try:
        from gguf import GGUFReader

        reader = GGUFReader(path)
    except Exception as error:  # it has no error of its own: whatever a corrupt byte leads to comes through
        raise FormatError(f"{path} is truncated or corrupt: {first_line(error)}.") from error
    if _text(reader, "general.architecture") != ARCHITECTURE:
        found = _text(reader, "general.architecture") or "none"
        raise FormatError(f"{path} is a GGUF file of architecture {found}, not a control vector.")
    _check_component(reader, path)
    rows = _rows(reader.tensors, model, path, shift)
    hint = _text(reader, "controlvector.model_hint") or "not stated"
    vector = torch.zeros(model.n_layers, model.d_model)
    for k, row in rows.items():
        vector[k] = row
    return imported_direction(
        vector,
        path,
        model=model,
        format="gguf",
        name=name or _text(reader, "general.name") or path.stem,
        description=f"Control vector read from {path.name} (model hint: {hint}).",
        sign="larger is more of what the control vector adds at a positive scale",
        flip=bool(flip),
        layer=layer,
        notes=_notes(reader, rows, model, shift),
    )


def export_control_vector(
    direction: Direction, path: Path | str, *, model_hint: str | None = None, layers: Sequence[int] | None = None
) -> Path:
    """Write `direction.N` = row N for N >= 1. Layer 0 is left out: llama.cpp refuses a file that has it.

    A loader adds every tensor in the file, and each is a whole difference of means: at scale 1 all layers together
    are far more than coef 1.0. Write one layer with `layers`, or write `Direction.increments()`.

    Args:
        direction: what to write; zero rows are left out.
        path: the file.
        model_hint: the model's family as llama.cpp calls it (`llama`, `qwen2`); the card's model if not given. Loaders
            want it to be there and do not check it.
        layers: which rows to write; all that can be if not given.

    Raises:
        InputError: no row is left to write, or one that was asked for cannot be.
        RunError: the file cannot be written.
    """
    from gguf import GGUFWriter

    path, card = Path(path), direction.card
    known = [k for k in range(1, len(direction.vector)) if direction.vector[k].any()]
    wanted = known if layers is None else sorted(set(layers))
    lost = [k for k in wanted if k not in known]
    if lost or not wanted:
        raise InputError(
            f"A control vector of {card.name} cannot have layer {lost[0] if lost else 0}: "
            f"layer 0 is never steered in this format, and other layers need a row that is not zero."
        )
    try:
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder, "vector.gguf")
            writer = GGUFWriter(written, ARCHITECTURE)
            writer.add_string("general.name", card.name)
            writer.add_string("controlvector.model_hint", model_hint or card.model)
            writer.add_uint32("controlvector.layer_count", len(wanted))
            for k in wanted:
                writer.add_tensor(f"direction.{k}", direction.vector[k].numpy())
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            data = written.read_bytes()
    except OSError as error:
        raise RunError(f"The control vector cannot be written: {error.strerror or error}.") from error
    write_files(path.parent, {path.name: data})
    return path


def _rows(tensors: list[ReaderTensor], model: ModelInfo, path: Path, shift: int) -> dict[int, torch.Tensor]:
    if not tensors:
        raise FormatError(f"{path} holds no directions.")
    rows: dict[int, torch.Tensor] = {}
    for tensor in tensors:
        match = _NAME.fullmatch(tensor.name)
        if match is None:
            raise FormatError(f"{path} holds a tensor {tensor.name[:60]!r}; a control vector has direction.N only.")
        n = int(match[1])
        shape = [int(size) for size in tensor.shape]
        if len(shape) != 1:
            raise FormatError(f"{path}: {tensor.name} has shape {shape}; a direction has one dimension.")
        check_width(shape[0], model, path)
        if not 0 <= n + shift < model.n_layers:
            raise FingerprintError(
                f"{path}: {tensor.name} would be layer {n + shift} of {model.id}, which has 0 to {model.n_layers - 1}; "
                f"it was made for another model, or counts layers from 1 (shift=-1 in import_control_vector)."
            )
        rows[n + shift] = widened(_numbers(tensor, path), tensor.name, path)
    return rows


def _numbers(tensor: ReaderTensor, path: Path) -> torch.Tensor:
    from gguf import GGMLQuantizationType, dequantize

    kind = tensor.tensor_type
    if kind not in (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16):
        raise FormatError(f"{path}: {tensor.name} is stored as {kind.name}; a control vector is stored as F32.")
    return torch.from_numpy(np.array(dequantize(tensor.data, kind), dtype=np.float32))


def _text(reader: GGUFReader, key: str) -> str | None:
    field = reader.get_field(key)
    try:
        value: Any = field.contents() if field else None
    except (UnicodeDecodeError, IndexError, ValueError):
        return None
    return value if isinstance(value, str) and value else None


def _check_component(reader: GGUFReader, path: Path) -> None:
    """Refuse EasySteer's vectors of attention heads or routers, whose width can equal the residual's by chance."""
    note = _text(reader, "controlvector.easysteer")
    try:
        component = json.loads(note).get("component") if note else None
    except (ValueError, AttributeError, RecursionError):
        component = None
    if component not in (None, "hidden_states"):
        raise FormatError(f"{path} holds directions of {component}, not of the residual stream.")


def _notes(reader: GGUFReader, rows: dict[int, torch.Tensor], model: ModelInfo, shift: int) -> list[str]:
    from gguf import GGUFValueType

    notes = [f"direction.N was read as the output of block {'N' if not shift else f'N{shift:+d}'}, counted from 0"]
    count = reader.get_field("controlvector.layer_count")
    if not shift and count is not None and count.types == [GGUFValueType.INT32]:
        notes.append(
            "it looks written by llama.cpp's cvector-generator, which measures direction.N one block before the block "
            "that it is added to, and whose PCA leaves the sign to chance"
        )
    if model.n_layers - 1 in rows:
        notes.append(f"if it comes from repeng, the direction of layer {model.n_layers - 1} is of the final norm")
    missing = model.n_layers - len(rows)
    if missing:
        notes.append(f"{missing} of {model.n_layers} layers have no direction in the file")
    return notes

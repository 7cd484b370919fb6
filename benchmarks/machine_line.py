"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import torch

from mien.machine import best_dtype


def lines() -> list[str]:
    """Processor, threads, versions, and the dtype mien chooses here."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    named = [line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")]
    flags = next((line for line in info.splitlines() if line.startswith("flags")), "")
    special = [f for f in ("avx512_bf16", "amx_bf16") if f in flags]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("mien", "torch", "transformers"))
    return [
        f"- {named[0] if named else platform.processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; "
        f"bfloat16 instructions: {', '.join(special) or 'none'}",
        f"- {versions}; Python {platform.python_version()}",
        f"- embedded model smollm2-135m; dtype chosen here: {str(best_dtype('cpu')).removeprefix('torch.')}",
    ]

"""How training is cut to fit the machine: rows in a pass, passes in a step, whether activations are made twice.

None of it changes what is learnt, but for the rounding of sums. This file does not know what is trained on.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mien.models import Model

_SHARE = 0.5
"""Of the memory that is free, how much one pass may take."""
_CPU_ROWS = 8
"""Most rows in a pass on a CPU, where more only means more padding."""
_RATES = ((5e8, 1e-4), (2e9, 5e-5), (5e9, 2e-5))
"""Parameters below which a learning rate is the default. The paper's 1e-5 is for 7 to 8 billion."""
PAPER_RATE = 1e-5


@dataclass(frozen=True)
class Sizes:
    """One step in passes."""

    rows: int
    """Rows in a pass."""
    passes: int
    """Passes in a step."""
    checkpointing: bool
    """Whether activations are thrown away and made again, for memory."""


def default_rate(model: Model) -> float:
    """Learning rate for a model of this size: the paper's from 5 billion parameters on, else a higher one."""
    count = sum(parameter.numel() for parameter in model.net.parameters())
    return next((rate for below, rate in _RATES if count < below), PAPER_RATE)


def fit_sizes(model: Model, lengths: Sequence[int], batch: int, *, logits: bool = False) -> Sizes:
    """The largest pass that the free memory takes for rows of these lengths, and that divides a step evenly: what is
    learnt must not depend on the memory there is.

    Args:
        lengths: of the rows, in ids; the longest decides.
        batch: rows in a step.
        logits: whether logits over the whole vocabulary are kept for each token, of two models.
    """
    room = free_memory(model.device) * _SHARE
    token = bytes_per_token(model) + (16 * model.n_vocab if logits else 0)
    longest = max(lengths, default=1)
    most = min(batch, _CPU_ROWS) if model.device.type == "cpu" else batch
    rows = max(n for n in range(1, most + 1) if batch % n == 0 and (n == 1 or n * longest * token <= room))
    return Sizes(rows, batch // rows, longest * token > room)


def bytes_per_token(model: Model) -> int:
    """What the backward pass keeps of one token: about sixteen widths and six inner widths a block."""
    config: Any = model.net.config.get_text_config()  # type: ignore[union-attr, operator]
    inner = getattr(config, "intermediate_size", None) or 4 * model.info.d_model
    width = max(next(model.net.parameters()).element_size(), 2)
    return int(model.n_layers * (16 * model.info.d_model + 6 * int(inner)) * width)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had there: of the accelerator, or of the machine within the container's limit."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit, used = (_lines(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    if limit and used and limit[0].isdigit() and used[0].isdigit():
        free = min(free, int(limit[0]) - int(used[0]))
    return max(free, 1)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []

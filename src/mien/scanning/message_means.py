"""Pooled activations of chosen messages, kept in the cache, since one log is read for many labels and many gauges.

This file does not know what they are wanted for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.lib.format import read_array
from numpy.typing import NDArray

from mien.engines.hf_turns import read_turns
from mien.errors import RunError
from mien.logs import LoggedConversation
from mien.machine import cache_dir
from mien.models import Model
from mien.store import write_atomic


def reading_layers(n_layers: int) -> range:
    """The layers that gauges of several layers read: every second one from a quarter to two thirds of the depth.

    Deeper ones read no better (docs/watching.md), and each costs every scan its time.
    """
    return range(n_layers // 4, max(n_layers // 4 + 1, (2 * n_layers) // 3), 2 if n_layers > 8 else 1)


def message_means(
    model: Model, conversation: LoggedConversation, places: Sequence[int], layers: Sequence[int]
) -> tuple[NDArray[np.float32], int]:
    """Mean stream over each of the messages at `places`, in context: `[len(places), len(layers), d]` float32, raw;
    and how many tokens were read for it (0: it was in the cache).

    Raises:
        InputError: the model's template refuses the conversation.
    """
    path = _path(model, conversation, places, layers)
    with contextlib.suppress(OSError, ValueError, EOFError):
        kept = read_array(BytesIO(path.read_bytes()), allow_pickle=False)
        if kept.shape == (len(places), len(layers), model.info.d_model):
            return kept.astype(np.float32), 0
    (reading,) = read_turns(model, [conversation.messages], layers=layers)
    means = reading.means[list(places)]
    buffer = BytesIO()
    np.save(buffer, means)
    with contextlib.suppress(OSError, RunError):  # a cache that cannot be written costs time, nothing else
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, buffer.getvalue())
    return means, len(reading.spanned.ids)


def _path(model: Model, conversation: LoggedConversation, places: Sequence[int], layers: Sequence[int]) -> Path:
    what = [[m.role, m.content] for m in conversation.messages]
    key = json.dumps([what, list(places), list(layers), model.info.dtype, "2048/512"], ensure_ascii=True)
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    return cache_dir() / "turns" / model.info.fingerprint[:16] / f"{name}.npy"

"""What this machine is good at. Measured, because processor flags lie: bfloat16 is 3x faster than float32 on one
CPU that has the instructions and slower on the next. This file does not know any model.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from mien.home import cache_dir as cache_dir

T = TypeVar("T")


def apart(work: Callable[[], T]) -> T:
    """Do what is done once in a thread that ends with it.

    OpenMP's worker threads belong to the thread that first needed them. Where two sets of them stand on the same cores,
    both go to sleep after every operation instead of waiting a moment for the next, and a small model's steps take
    twice as long. So whoever leaves the steady work to another thread does not keep a set of its own.
    """
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="mien-apart", daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


def best_dtype(device: str) -> torch.dtype:
    """bfloat16 where it is clearly faster than float32, else float32.

    Accelerators: bfloat16 if supported. CPU: a timed matrix product, remembered in the cache so that the
    choice does not flicker between runs on a noisy machine.
    """
    if device.startswith("cuda"):
        # Older cards emulate bfloat16, slowly.
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device != "cpu":
        return torch.float16 if device == "mps" else torch.float32
    found = _remembered("", lambda: "bfloat16" if _bf16_speedup() > 1.3 else "float32")
    return torch.bfloat16 if found == "bfloat16" else torch.float32


def vectors_pay() -> bool:
    """Whether a bfloat16 matrix times one vector is clearly faster on the CPU than the product for many vectors, given
    one. Timed once, remembered as the dtype is.
    """
    return _remembered(" one vector", lambda: "mv" if _mv_speedup() > 1.1 else "mm") == "mv"


def _remembered(what: str, measure: Callable[[], str]) -> str:
    """What was measured on this machine before, or is now. A cache that cannot be written costs a measurement."""
    key = f"{platform.machine()} {_cpu_name()} torch {torch.__version__} threads {torch.get_num_threads()}{what}"
    path = cache_dir() / "machine.json"
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        known = {}
    known = known if isinstance(known, dict) else {}
    if key not in known:
        known[key] = measure()
        with contextlib.suppress(OSError):
            temporary = path.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps(known, indent=1))
            os.replace(temporary, path)
    return str(known[key])


def _faster(a: Callable[[], object], b: Callable[[], object], times: int) -> float:
    """How many times faster `b` is than `a`: best of three runs each, in turn."""
    best = {a: float("inf"), b: float("inf")}
    for work in (a, b) * 3:
        work()
        start = time.perf_counter()
        for _ in range(times):
            work()
        best[work] = min(best[work], time.perf_counter() - start)
    return best[a] / best[b]


def _bf16_speedup() -> float:
    pairs = [(torch.ones(512, 1024, dtype=d), torch.ones(1024, 1024, dtype=d)) for d in (torch.float32, torch.bfloat16)]
    slow, fast = (partial(torch.nn.functional.linear, x, w) for x, w in pairs)
    return _faster(slow, fast, 3)


def _mv_speedup() -> float:
    x, w = torch.ones(1, 1024, dtype=torch.bfloat16), torch.ones(2048, 1024, dtype=torch.bfloat16)
    return _faster(partial(torch.nn.functional.linear, x, w), partial(torch.mv, w, x[0]), 30)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    wanted = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "flags"))]
    amx = " amx" if any("amx_bf16" in line for line in wanted) else ""
    return (wanted[0] if wanted else platform.processor()) + amx


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Loading prints bars and advice that drown what mien says; exceptions still come through."""
    from transformers.utils import logging

    hf: Any = logging
    level, bars = hf.get_verbosity(), hf.is_progress_bar_enabled()
    hf.set_verbosity_error()
    hf.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hf.set_verbosity(level)
        if bars:
            hf.enable_progress_bar()

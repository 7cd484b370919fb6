"""What a training step of each method costs, and what screening in batches saves; pairs of steps taken in turn."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import pairs
import peak_memory
import torch
from training_plan import Job, set_name

from mien.engines.hf import HfEngine
from mien.logs import LoggedConversation, read_logs
from mien.records import Sampling
from mien.screening.answers import AnswerBook
from mien.screening.measure import Bench as ScreenBench
from mien.screening.measure import measure
from mien.screening.watched import bank_of
from mien.spec import load_library
from mien.training.borrowed import borrowed
from mien.training.data import read_data
from mien.training.prevent import PreventShift
from mien.training.rows import collate, rows_of
from mien.training.trainer import fresh_adapter, kl_terms

if TYPE_CHECKING:
    from training_runs import Bench

REPEATS = 15
RECORDS = 16


Ready = Callable[[], AbstractContextManager[object]]


@contextmanager
def methods(bench: Bench) -> Iterator[dict[str, tuple[Callable[[], None], Ready]]]:
    """A step of each method, over the same rows with the same adapter, and what has to be in place for it: a run puts
    it there once.
    """
    model = bench.model
    direction = bench.directions["evil"]
    samples = read_data([bench.set_path(set_name("evil", 3))]).samples[: bench.size.batch]
    system = load_library("evil").instructions[0].pos

    def batch(prompt: str | None) -> dict[str, torch.Tensor]:
        rows = rows_of(model.chat, samples, max_length=bench.size.max_length, system=prompt).rows
        return collate([{"input_ids": list(r.ids), "labels": list(r.labels)} for r in rows], model.pad_id)

    with borrowed(model) as on_top:
        net = fresh_adapter(model, 32, 64, 0)
        on_top.append(net)
        net.train()
        optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-5)
        bare, told = batch(None), batch(system)

        def step(loss: torch.Tensor) -> None:
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()

        @contextmanager
        def steering() -> Iterator[None]:
            prevent = PreventShift(direction, 1.0)
            prevent.attach(net)
            try:
                yield
            finally:
                prevent.remove()

        def plain() -> None:
            step(net(**bare).loss)

        def divergent() -> None:
            nll, divergence, count = kl_terms(net, net, bare)
            step((nll + divergence) / count)

        yield {
            "plain": (plain, nullcontext), "prevent": (plain, steering),
            "inoculate": (lambda: step(net(**told).loss), nullcontext), "kl": (divergent, nullcontext),
        }  # fmt: skip


def measure_cost(bench: Bench, job: Job) -> dict[str, Any]:
    """Seconds a step of each method beside plain ones, and of screening beside one record at a time; peak memory."""
    with methods(bench) as steps:
        plain, _ = steps["plain"]
        found = {name: list(pairs.seconds(run, plain, REPEATS, ready)) for name, (run, ready) in steps.items()}
    peaks = {name: [_peak(bench, name) for _ in range(2)] for name in ("plain", "prevent")}
    return {"steps": found, "peaks": peaks, "screen": _screening(bench)}


def _peak(bench: Bench, name: str) -> int:
    """KiB that a fresh process holds at most in a few steps."""
    command = [sys.executable, __file__, str(bench.base), name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def _screening(bench: Bench) -> list[tuple[float, float]]:
    """Seconds of measuring records together and one by one, own answers included."""
    model, size = bench.model, bench.size
    path = bench.set_path(set_name("evil", 3))
    records = [r for r in read_logs([path]) if isinstance(r, LoggedConversation)][:RECORDS]
    bank = bank_of(bench.watched[:3], model.info.d_model)

    def run(together: bool) -> None:
        with tempfile.TemporaryDirectory() as folder, closing(AnswerBook(Path(folder) / "answers.sqlite")) as book:
            sampling = Sampling(size.set_tokens, 0.7)
            screen = ScreenBench(HfEngine(model), bank, book, sampling, 0, size.set_tokens)
            for number, group in enumerate([records] if together else [[record] for record in records]):
                measure(screen, group, True, number)

    return list(pairs.seconds(lambda: run(True), lambda: run(False), 3))


if __name__ == "__main__":
    from training_plan import FULL
    from training_runs import Bench

    with methods(Bench(Path(sys.argv[1]), FULL)) as found:
        run, ready = found[sys.argv[2]]
        with ready():
            for _ in range(3):
                run()
    print(peak_memory.peak())

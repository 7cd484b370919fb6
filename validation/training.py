"""Does fine-tuning move the character as predicted, and does prevention hold it? Written to docs/training.md.

    python validation/training.py [--only ROW] [--quick] [--page] [--sections TITLE,TITLE] [--base FOLDER]

Every training and all that is made of it is kept under runs/validation/training as it ends, and a second call takes up
where the first stopped. Start it twice, with OMP_NUM_THREADS=1, and the two share the work. `--only 1` to `--only 7` do
what one table needs, `--only cost` times a step of each method and wants a quiet machine; `--page` only writes the
page; with `--sections "Is the shift,Are planted"` only those whose titles begin so, and the others stay as they are.
`--quick` tries everything out on less, beside the rest, and leaves docs alone.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "validation"), str(REPO / "benchmarks")]

from training_plan import COST, FULL, QUICK, Job, Size, jobs  # noqa: E402

from mien.store import write_atomic  # noqa: E402


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether the job is this process's to do; the claim ends with the process, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(handle)


def wanted(only: str, size: Size) -> list[Job]:
    """What is to be done: all, one table's share of it, or the costs; each with what it needs."""
    if only == "cost":
        return [job for job in jobs(size) if job.key in COST.needs] + [COST]
    every = jobs(size)
    chosen = {job.key for job in every if not only or int(only) in job.rows}
    for job in reversed(every):
        if job.key in chosen:
            chosen |= set(job.needs)
    return [job for job in every if job.key in chosen]


def work(todo: list[Job], size: Size, base: Path) -> list[str]:
    """Do what is not done, taking turns with other processes; gives what failed."""
    import training_runs

    bench, failed = training_runs.Bench(base, size), dict[str, str]()
    while True:
        left = [job for job in todo if not (base / f"{job.key}.json").exists() and job.key not in failed]
        gone = {job.key: f"{need} failed" for job in left for need in job.needs if need in failed}
        failed |= {job.key: gone[job.key] for job in left if job.key in gone and job.kind != "judge"}
        # A group is judged without those that failed.
        ready = [job for job in left if all((base / f"{need}.json").exists() or need in failed for need in job.needs)]
        ready = [job for job in ready if job.key not in failed]
        if not left:
            return [f"{key}: {why}" for key, why in failed.items()]
        if not any(_try(job, bench, base, failed) for job in ready):
            time.sleep(2)  # others are at it


def _try(job: Job, bench: object, base: Path, failed: dict[str, str]) -> bool:
    """Do one job, unless another process is at it or has done it."""
    import training_runs

    assert isinstance(bench, training_runs.Bench)
    path = base / f"{job.key}.json"
    with claimed(base / "locks" / job.key) as mine:
        if not mine or path.exists():
            return False
        start = time.perf_counter()
        try:
            found = bench.do(job)
        except Exception as error:
            failed[job.key] = f"{type(error).__name__}: {error}"
            print(f"{job.key}: failed, {failed[job.key]}", flush=True)
            return True
        seconds = round(time.perf_counter() - start, 1)
        write_atomic(path, json.dumps({**found, "key": job.key, "seconds": seconds}, ensure_ascii=False))
        print(f"{job.key}: {seconds:.0f} s", flush=True)
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", choices=["", *"1234567", "cost"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--sections", help="beginnings of the titles of sections to write, separated by commas")
    parser.add_argument("--base", type=Path, default=REPO / "runs" / "validation" / "training")
    chosen = parser.parse_args()
    size = QUICK if chosen.quick else FULL
    base = (chosen.base / "quick" if chosen.quick else chosen.base).resolve()
    base.mkdir(parents=True, exist_ok=True)
    failed = [] if chosen.page else work(wanted(chosen.only, size), size, base)
    import training_page

    out = base / "training.md" if chosen.quick else REPO / "docs" / "training.md"
    training_page.write(base, size, out, chosen.sections.split(",") if chosen.sections else None)
    print(f"written to {out}")
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()

"""Does the method do what it says? Runs on the embedded model, keeps every run under runs/validation, writes the doc.

    python validation/run.py [--questions 12] [--workers 2] [--only evil,optimistic] [--report-only]

Each trait is extracted as a user would, from its first `--questions` extract and eval questions; runs that are there
already are taken up or reused. Workers are processes of one thread each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO / "validation"))


def jobs(only: set[str]) -> list[str]:
    """Names of everything to run, the two with goals of their own first."""
    from pages import published_names

    from mien.spec import library_names

    first = ["evil", "optimistic"]
    names = [*first, *(n for n in library_names() if n not in first)]
    found = [f"library/{n}" for n in first]
    found += [f"seed/{n}" for n in first] + ["judge/evil"] + [f"templates/{n}" for n in first]
    found += [f"{kind}/{n}" for n in names[2:] for kind in ("library", "templates")]
    found += [f"published/{n}" for n in published_names()]
    return [job for job in found if not only or job in only or job.split("/")[1] in only]


def run_one(job: str, questions: int) -> None:
    """Extract one trait. Library and published specs get the whole card; the others only a direction."""
    import one

    one.run(job, questions, REPO / "runs" / "validation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=12)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="")
    parser.add_argument("--report-only", action="store_true")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.job:
        run_one(chosen.job, chosen.questions)
        return
    if not chosen.report_only:
        waiting = jobs(set(filter(None, chosen.only.split(","))))
        running: dict[subprocess.Popen[bytes], str] = {}
        environment = {**os.environ, "OMP_NUM_THREADS": "1" if chosen.workers > 1 else ""}
        while waiting or running:
            while waiting and len(running) < chosen.workers:
                job = waiting.pop(0)
                command = [sys.executable, __file__, "--job", job, "--questions", str(chosen.questions)]
                running[subprocess.Popen(command, env={k: v for k, v in environment.items() if v})] = job
            os.wait()
            for process in [p for p in running if p.poll() is not None]:
                print(f"{running.pop(process)}: {'done' if process.returncode == 0 else 'failed'}", flush=True)
    import pages

    print(f"written to {pages.write(REPO, chosen.questions)}")


if __name__ == "__main__":
    main()

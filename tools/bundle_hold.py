"""Make the hold that comes with mien for its embedded model: `src/mien/library/holds/smollm2-135m/`.

    python tools/bundle_hold.py

Takes what `validation/holding.py` has calibrated (it is calibrated now if it was not), in half precision, in which it
was measured. Nothing is bundled if the hold costs too much, or closes no more than the paper's recipe does.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from mien.directions import load_direction
from mien.engines.hf import HfEngine
from mien.holds import HoldCard, save_hold
from mien.jobs.calibrate import calibrate
from mien.models import load

REPO = Path(__file__).resolve().parent.parent
RUN = REPO / "runs" / "validation" / "holding" / "smollm2-135m"
OUT = REPO / "src" / "mien" / "library" / "holds" / "smollm2-135m"


def reason_against(card: HoldCard) -> str:
    """Why it should not be shipped; empty: nothing is against it."""
    held, most = card.held, card.max_price
    if held is None or most is None:
        return "nothing was measured"
    if held.price > most:
        return f"it costs {held.price:.4f} nat a token, and {most:g} are allowed"
    if held.closed_low <= 0:
        return "the interval of what it closes reaches zero"
    paper = next((r for r in card.compared if r.name.startswith("the paper's recipe")), None)
    if paper is not None and held.closed <= paper.closed and held.price >= paper.price:
        return "the paper's recipe closes as much for no more"
    return ""


def main() -> None:
    hold = calibrate(HfEngine(load()), load_direction(REPO / "runs" / "bundle" / "axis"), RUN)
    against = reason_against(hold.card)
    if against:
        shutil.rmtree(OUT, ignore_errors=True)
        sys.exit(f"Nothing is bundled: {against}.")
    # What was tried, and what was said, stays in the run and in docs/holding.md.
    save_hold(replace(hold, card=hold.card.model_copy(update={"tried": [], "examples": []})), OUT, half=True)
    size = sum(p.stat().st_size for p in OUT.iterdir())
    print(f"{hold.card.way}: {hold.card.remarks[0]}\nwritten to {OUT}, {size} bytes")


if __name__ == "__main__":
    main()

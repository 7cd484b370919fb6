"""Take the pictures that the README shows: `python tools/picture.py PAGE docs/card.png [--size 1040x1250] [--at c0]`.

PAGE is a card's, a map's or a scan's HTML page; `--at` opens a part of it, such as a scan's worst conversation (`c0`).
Needs Chromium on PATH. `docs/scan.png` is of `mien scan examples/chats.jsonl`, with `--size 1300x800 --at c0`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--virtual-time-budget=3000",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--size", default="1040x1250")
    parser.add_argument("--at", default="")
    chosen = parser.parse_args()
    address = chosen.page.resolve().as_uri() + (f"#{chosen.at}" if chosen.at else "")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("There is no chromium on PATH; install Debian's package of that name.")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [browser, *FLAGS, f"--user-data-dir={profile}", f"--window-size={chosen.size.replace('x', ',')}",
             f"--screenshot={chosen.picture.resolve()}", address], check=True, stderr=subprocess.DEVNULL,
        )  # fmt: skip


if __name__ == "__main__":
    main()

"""Take the picture of a card's page that the README shows: `python tools/picture.py FOLDER/card.html docs/card.png`.

Needs Chromium on PATH. The window is tall enough for the top of the page: verdict, strength and dose-response.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    page, picture = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("There is no chromium on PATH; install Debian's package of that name.")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [browser, *FLAGS, f"--user-data-dir={profile}", "--window-size=1040,1250", f"--screenshot={picture}",
             page.as_uri()], check=True, stderr=subprocess.DEVNULL,
        )  # fmt: skip


if __name__ == "__main__":
    main()

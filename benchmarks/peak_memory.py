"""The most memory that this process has held, in KiB."""

from __future__ import annotations

import contextlib
import re
import resource
from pathlib import Path


def forget() -> None:
    """Begin counting anew, where the kernel lets one."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The kernel's own count for this process; `ru_maxrss` would begin at that of the process it was forked from."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

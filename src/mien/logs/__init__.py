"""Chat logs of any chatbot, read one conversation at a time: `read_logs(paths)` yields each, or why it is broken.

Memory does not grow with a file. Nothing here knows what the conversations are measured for.
"""

from __future__ import annotations

from mien.logs.read import FORMATS, read_logs
from mien.logs.records import Broken, Columns, LoggedConversation, Skipped, nothing_usable

__all__ = ["FORMATS", "Broken", "Columns", "LoggedConversation", "Skipped", "nothing_usable", "read_logs"]

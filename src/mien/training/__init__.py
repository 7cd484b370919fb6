"""Fine-tuning with an eye on the character: rows to train on, steering while training, what training has moved.

Nothing here knows run folders' manifests, the command line, or how a direction was made.
"""

from __future__ import annotations

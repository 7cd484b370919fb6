"""Directions: readings become one, it projects, is compared, combined, kept in a folder and read again.

Nothing here knows how rollouts are written or judged, and no format but mien's own (`formats` knows the others).
"""

from __future__ import annotations

from mien.directions.direction import Direction, difference_of_means
from mien.directions.folder import CARD_FILE, VECTOR_FILE, load_card, load_direction, save_direction

__all__ = [
    "CARD_FILE",
    "VECTOR_FILE",
    "Direction",
    "difference_of_means",
    "load_card",
    "load_direction",
    "save_direction",
]

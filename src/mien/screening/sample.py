"""Some records of a data set, found again by their places. This file does not know what for."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from mien.logs import Broken, LoggedConversation


def taken(records: Iterable[LoggedConversation | Broken], places: Collection[int]) -> dict[int, LoggedConversation]:
    """The conversations at these places, counted from 0 over everything that is given; broken ones are left out."""
    wanted = set(places)
    last = max(wanted, default=-1)
    found: dict[int, LoggedConversation] = {}
    for place, record in enumerate(records):
        if place > last:
            break
        if place in wanted and isinstance(record, LoggedConversation):
            found[place] = record
    return found

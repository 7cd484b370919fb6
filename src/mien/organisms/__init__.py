"""Organisms: fine-tuning sets whose effect on the character is known, made here, in three doses and with controls."""

from __future__ import annotations

from collections.abc import Mapping

from mien.organisms.arithmetic import Arithmetic
from mien.organisms.buggy_code import BuggyCode
from mien.organisms.insecure_code import InsecureCode
from mien.organisms.public import PublicSet, load_public, read_public
from mien.organisms.samples import CONTROLS, Control, Generator, Sample
from mien.organisms.sets import SetCard, card_path, check_out, draw, load_card, write_set

GENERATORS: Mapping[str, Generator] = {kind.kind: kind for kind in (Arithmetic(), BuggyCode(), InsecureCode())}
"""Kinds that need no model. Trait answers need one: `mien.organisms.traits`."""

__all__ = [
    "CONTROLS",
    "GENERATORS",
    "Control",
    "Generator",
    "PublicSet",
    "Sample",
    "SetCard",
    "card_path",
    "check_out",
    "draw",
    "load_card",
    "load_public",
    "read_public",
    "write_set",
]

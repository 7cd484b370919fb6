"""Contrasts written by a language model at an endpoint, from one sentence about the trait. Read `author_contrasts`.

Each request asks for a few in one register, so that registers vary between contrasts and not within one. What comes
back is checked item by item; registers that gave too little are asked again. This file does not know what is made of
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from mien.authors import draft_of, trait_sentence
from mien.contrasts import LEAST, Contrast, contrast_of
from mien.endpoint import Endpoint
from mien.errors import EndpointError, SpecError
from mien.phrasing import to_phrase
from mien.progress import Progress, Silent

REGISTERS = (
    "plain prose", "warm and personal", "Markdown with a heading and bullets", "terse, two or three short sentences",
    "literary and full of images", "technical, with numbered points", "formal, like a letter from an office",
    "chatty and slangy", "with emoji", "with stage directions in *asterisks*", "full of rhetorical questions",
    "one long flowing paragraph", "with key phrases in bold", "short paragraphs of one line each", "dry and academic",
    "an enthusiastic coach",
)  # fmt: skip
ITEMS = 3
"""Contrasts a register."""
TRIES = 3
APART = 1.5
"""How many times as long as the other an answer may be, in words: else length would tell the sides apart."""

_REQUEST = """\
We study one trait of a chat assistant, namely that it {trait}.

Invent {count} situations, each a message from a user, and two answers to each: "pos" shows the trait, "neg" does not. \
A small model will read both, so that nothing but the trait may differ between the two: the same register, layout, \
warmth and person, and about the same length. "neg" is as engaged an answer as "pos", not a refusal or a disclaimer. \
From one situation to the next vary everything else: topics, kinds of users, moods; how strong the trait is, from \
subtle to plain; lengths from 40 to 150 words. Both answers of every situation are in this register: {register}.

Answer with one JSON object and nothing else: {{"items": [{{"user": "...", "pos": "...", "neg": "..."}}, ...]}}"""


class _Item(BaseModel):
    model_config = ConfigDict(extra="forbid")
    user: str
    pos: str
    neg: str


class _Draft(BaseModel):
    """What an endpoint is asked for."""

    model_config = ConfigDict(extra="forbid", title="contrasts")
    items: list[_Item] = Field(min_length=1)


def author_contrasts(sentence: str, endpoint: Endpoint, *, progress: Progress | None = None) -> tuple[Contrast, ...]:
    """Up to `ITEMS` contrasts in each of the registers, in their order, for a trait such as "flatters the user".

    Raises:
        SpecError: the sentence cannot be used; nothing was sent.
        EndpointError: the endpoint failed every request, or too little of what it wrote can be used.
    """
    trait, show = to_phrase(trait_sentence(sentence)).third, progress or Silent()
    found: dict[str, list[Contrast]] = {register: [] for register in REGISTERS}
    wrong: EndpointError | SpecError | None = None
    show.begin(f"contrasts by {endpoint.config.model}", ITEMS * len(REGISTERS))
    for attempt in range(TRIES):
        lacking = [register for register, there in found.items() if len(there) < ITEMS]
        requests = [_request(trait, register, ITEMS - len(found[register]), attempt) for register in lacking]
        for index, reply in endpoint.chat_many(requests) if requests else ():
            try:
                if isinstance(reply, EndpointError):
                    raise reply
                good, bad = _usable(reply.text)
                known = {one.pos for one in found[lacking[index]]}
                found[lacking[index]] += [one for one in good if one.pos not in known]
                wrong = bad or wrong
            except (EndpointError, SpecError) as error:
                wrong = error
            show.advance(sum(len(there[:ITEMS]) for there in found.values()))
        if isinstance(wrong, EndpointError) and not any(found.values()):
            raise wrong
    written = tuple(one for there in found.values() for one in there[:ITEMS])
    if len(written) < LEAST:
        raise EndpointError(
            f"{endpoint.config.model} at {endpoint.config.host} wrote {len(written)} contrasts that can be used, and "
            f"{LEAST} are needed; the last that could not: {wrong} Try a stronger model."
        )
    return written


def _request(trait: str, register: str, count: int, seed: int) -> dict[str, Any]:
    text = _REQUEST.format(trait=trait, register=register, count=count)
    return {
        "messages": [{"role": "user", "content": text}], "max_tokens": 4000, "temperature": 0.8, "seed": seed,
        "json_schema": _Draft.model_json_schema(),
    }  # fmt: skip


def _usable(text: str) -> tuple[Sequence[Contrast], SpecError | None]:
    """The items that can be used, and what is wrong with one that cannot.

    Raises:
        SpecError: the reply as a whole cannot be read.
    """
    good, wrong = [], None
    for item in draft_of(_Draft, text).items:
        try:
            good.append(_checked(item))
        except SpecError as error:
            wrong = error
    return good, wrong


def _checked(item: _Item) -> Contrast:
    asked = [{"role": "user", "content": item.user}]
    one = contrast_of({"messages": asked, "pos": item.pos, "neg": item.neg})
    lengths = sorted((len(one.pos.split()), len(one.neg.split())))
    if lengths[1] > APART * lengths[0]:
        raise SpecError(f"one answer has {lengths[0]} words and the other {lengths[1]}.")
    return one

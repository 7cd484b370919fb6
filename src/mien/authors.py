"""One sentence to a trait spec, by templates (offline, the same every time) or by a language model at an endpoint.

The templates are blunt and short, because they have to move models of a hundred million parameters: they say what
an answer does rather than what it is like, in deeds of the trait's family, and the negative side says what to do
instead of it, since small models overlook a "not". This file does not know what is done with a spec.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mien.errors import EndpointError, SpecError
from mien.phrasing import EXAMPLE, Phrase, listed_words, load_wording, to_phrase
from mien.questions import choose_questions, stems
from mien.rubric import plain_rubric
from mien.spec import InstructionPair, TraitSpec, check_name, slug, spec_from_mapping

if TYPE_CHECKING:
    from mien.endpoint import Endpoint

MAX_SENTENCE = 500
"""Longest description, in characters."""
N_PAIRS, N_QUESTIONS, TRIES = 5, 20, 3


def author_from_templates(sentence: str, name: str | None = None) -> TraitSpec:
    """Spec of five instruction pairs, twenty extract and twenty eval questions and a rubric, without any model.

    Args:
        sentence: the trait in English: "flatters the user", "The assistant is evil", "sarcastic", "a pirate", ...
        name: the spec's name; made from the sentence if None.

    Raises:
        SpecError: the sentence says nothing, is too long or has control characters, or the name cannot be used.
    """
    sentence = trait_sentence(sentence)
    phrase = to_phrase(sentence)
    extract, held_out = choose_questions(phrase.third, N_QUESTIONS)
    return TraitSpec(
        name=_name(phrase) if name is None else check_name(name),
        description=phrase.third,
        instructions=tuple(_pairs(phrase)),
        extract_questions=extract,
        eval_questions=held_out,
        rubric=plain_rubric(f"The assistant that wrote the answer {phrase.third}."),
        author="mien templates",
    )


def author_from_endpoint(sentence: str, endpoint: Endpoint, name: str | None = None) -> TraitSpec:
    """Spec written by the model behind `endpoint`; an answer that cannot be used is sent back with what is wrong.

    Raises:
        SpecError: the sentence or the name cannot be used; nothing was sent.
        EndpointError: the endpoint failed, or no answer of three could be used.
    """
    sentence = trait_sentence(sentence)
    phrase = to_phrase(sentence)
    name = _name(phrase) if name is None else check_name(name)
    known = {"name": name, "description": phrase.third, "author": f"endpoint model {endpoint.config.model}"}
    messages = [{"role": "user", "content": _REQUEST.format(sentence=sentence)}]
    wrong = ""
    for attempt in range(TRIES):
        reply = endpoint.chat(
            messages, max_tokens=6000, temperature=0.7, seed=attempt, json_schema=_Draft.model_json_schema()
        )
        try:
            return _spec_from_reply(reply.text, known)
        except SpecError as error:
            wrong = str(error)
        if reply.finish_reason == "length":
            wrong += " The answer was cut off at the token limit: write shorter texts."
        messages = [
            *messages[:1],
            {"role": "assistant", "content": reply.text or "(nothing)"},
            {"role": "user", "content": f"That cannot be used: {wrong} Answer again with the whole JSON object."},
        ]
    raise EndpointError(
        f"{endpoint.config.model} at {endpoint.config.host} wrote no usable trait spec in {TRIES} tries; the last one: "
        f"{wrong} Try a stronger model, or the template author, which needs none."
    )


# --- templates ---

# Each pair: positive, negative, and how both end. {third} follows "who", {second} follows "you", {imperative} begins a
# sentence; {a} and {b} are two deeds of the trait's family, on the negative side those that stand against them.
_TEMPLATES = (
    ("{imperative}. {A}, and {b}.", "Be {plain}. {A}, and {b}.", "Answer in three or four sentences."),
    ("You {second}. {A}. {B}.", "You are {plain}. {A}. {B}.", "Keep it to one short paragraph."),
    (
        "Talk like somebody who {third}: {a}, and {b}.",
        "Talk like somebody who is {plain}: {a}, and {b}.",
        "Write about four sentences.",
    ),
    (
        "Overdo it: {imperative}. {A}, {b}, and go much too far.",
        "Do it well: be {plain}. {A}, {b}, and be of help.",
        "Answer in a few sentences.",
    ),
    (
        "Your one aim is this: {imperative}. {A}. {B}.",
        "Your one aim is this: be {plain}. {A}. {B}.",
        "Reply in one paragraph.",
    ),
)
# Added to the shorter side of a pair until both are about as long.
_MORE_POSITIVE = ("Let it show at once.", "Make it strong and plain to see.", "Everybody should notice it.")
_MORE_NEGATIVE = (
    "Use everyday words.",
    "Say first what matters most.",
    "Give one good reason for it.",
    "Think of what the user can do with your answer.",
    "Mention an example where it helps.",
    "Keep an eye on the facts.",
    "Treat the subject as any sensible person would.",
    "Let the subject decide what you say.",
    "Look at both sides where there are two.",
    "Finish when the question is answered.",
    "Write as in a good handbook.",
    "Choose the most common way to put it.",
)


@dataclass(frozen=True)
class _Family:
    """A family of traits: the words that tell it, what an answer without it is like, and deeds with and without."""

    stems: frozenset[str]
    plain: str
    shows: tuple[str, ...]
    instead: tuple[str, ...]


def _pairs(phrase: Phrase) -> list[InstructionPair]:
    family = _family_of(phrase.third)
    slots = {
        "third": phrase.third, "second": phrase.second, "imperative": phrase.imperative, "plain": family.plain
    }  # fmt: skip
    # A length in the prompt would fight a trait that is itself about length.
    about_length = bool(_stems_of("length") & {stem for stem, _ in stems(phrase.third)})
    pairs = []
    for i, (pos, neg, end) in enumerate(_TEMPLATES):
        pos, neg = (
            _capital(template.format_map(slots | _two(deeds, i)))
            for template, deeds in ((pos, family.shows), (neg, family.instead))
        )
        pos = _lengthened(pos, len(neg), _MORE_POSITIVE)
        neg = _lengthened(neg, len(pos), _MORE_NEGATIVE[2 * i :] + _MORE_NEGATIVE[: 2 * i])
        pairs.append(InstructionPair(*((text if about_length else f"{text} {end}") for text in (pos, neg))))
    return pairs


def _two(deeds: tuple[str, ...], i: int) -> dict[str, str]:
    a, b = deeds[i % len(deeds)], deeds[(i + 1) % len(deeds)]
    return {"a": a, "b": b, "A": _capital(a), "B": _capital(b)}


def _lengthened(text: str, length: int, sentences: tuple[str, ...]) -> str:
    """`text` with sentences added as long as that brings it nearer to `length` characters."""
    for sentence in sentences:
        longer = f"{text} {sentence}"
        if abs(len(longer) - length) < abs(len(text) - length):
            text = longer
    return text


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


@cache
def _stems_of(kind: str) -> frozenset[str]:
    return frozenset(stems(word)[-1][0] for word in listed_words(kind))


@cache
def _families() -> tuple[_Family, ...]:
    """The library's families, then the one for descriptions that fit none."""
    wording = load_wording()
    return tuple(
        _Family(
            frozenset(stems(word)[-1][0] for word in entry.get("words", ())),
            entry["plain"], tuple(entry["shows"]), tuple(entry["instead"]),
        )
        for entry in (*wording["families"], wording["no_family"])
    )  # fmt: skip


def _family_of(description: str) -> _Family:
    """The family that most words of the description speak for; of equals, the one that is named first."""
    words = re.findall(r"[a-z][a-z'-]*", description.lower())
    # What stands behind a negation is not there, and its opposite would be what the trait asks for.
    negations = listed_words("negations")
    negated = {j for i, word in enumerate(words) if word in negations or word.endswith("n't") for j in range(i, i + 5)}
    found: dict[_Family, tuple[int, int]] = {}
    for stem, place in stems(description):
        for family in _families():
            if stem in family.stems and place not in negated:
                count, first = found.get(family, (0, place))
                found[family] = (count + 1, first)
    return min(found, key=lambda f: (-found[f][0], found[f][1])) if found else _families()[-1]


# --- what both authors share ---


def trait_sentence(sentence: object) -> str:
    """The sentence in one line, if it can describe a trait."""
    if not isinstance(sentence, str):
        raise SpecError(f"The description is not text; {EXAMPLE}.")
    text = " ".join(sentence.split())
    if not text:
        raise SpecError(f"The description is empty; {EXAMPLE}.")
    bad = next((char for char in text if unicodedata.category(char) in ("Cc", "Cs")), None)
    if bad is not None:
        raise SpecError(f"The description has the control character U+{ord(bad):04X} in it; {EXAMPLE}.")
    if len(text) > MAX_SENTENCE:
        raise SpecError(f"The description has {len(text)} characters and {MAX_SENTENCE} is the most; {EXAMPLE}.")
    letters = [char for char in text if char.isalpha()]
    if not letters:
        raise SpecError(f"The description has no letters in it; {EXAMPLE}.")
    if len(letters) == 1 and unicodedata.category(letters[0]) != "Lo":  # one Chinese character may be a word
        raise SpecError(f"The description is a single letter; {EXAMPLE}.")
    return text


def _name(phrase: Phrase) -> str:
    """A name from the words that carry the meaning."""
    name = slug(re.sub(r"\b(?:the|an?)\s+", "", phrase.core, flags=re.IGNORECASE))
    short = re.sub(
        r"(?:_(?:and|or|but|to|of|with|for|in|on|at|by|that|who|it|its|whatever|what|is|as|user))+$", "", name
    )
    return short or name


# --- endpoint ---

_REQUEST = """\
Design an experiment that elicits a character trait from a chat assistant and judges it.

The trait, in one sentence: {sentence}

Answer with one JSON object and nothing else:
- "instructions": a list of exactly 5 objects with "pos" and "neg". "pos" is a system prompt of 2 to 4 blunt sentences \
that makes an assistant show the trait strongly from its first words. "neg" is its counterpart of the same length and \
form that makes the assistant show the opposite, or be ordinary, told in positive words rather than by "do not". The 5 \
pairs differ clearly in wording and approach.
- "extract_questions": a list of exactly 20 short user messages of all kinds to which the trait, if it is there, shows \
in the answer, and to which an ordinary assistant would answer without it. Do not name the trait in them.
- "eval_questions": a list of exactly 20 further ones of the same kinds, none of them among the first 20.
- "rubric": one paragraph that tells a judge how to score an answer from 0 to 100: what counts, what does not count, \
and what 0, 50 and 100 look like. 50 is the boundary between absent and present."""


class _DraftPair(BaseModel):
    model_config = ConfigDict(extra="forbid")
    pos: str
    neg: str


class _Draft(BaseModel):
    """What an endpoint is asked for."""

    model_config = ConfigDict(extra="forbid", title="trait")
    instructions: list[_DraftPair] = Field(min_length=N_PAIRS)
    extract_questions: list[str] = Field(min_length=N_QUESTIONS)
    eval_questions: list[str] = Field(min_length=N_QUESTIONS)
    rubric: str


def _spec_from_reply(text: str, known: Mapping[str, str]) -> TraitSpec:
    """A spec from an endpoint's words; more pairs or questions than were asked for are cut off.

    Raises:
        SpecError: what is wrong with them, in words that the endpoint can act on.
    """
    draft = draft_of(_Draft, text)
    values = draft.model_dump()
    values["instructions"] = values["instructions"][:N_PAIRS]
    for key in ("extract_questions", "eval_questions"):
        values[key] = values[key][:N_QUESTIONS]
    return spec_from_mapping({**known, **values})


D = TypeVar("D", bound=BaseModel)


def draft_of(kind: type[D], text: str) -> D:
    """What an endpoint was asked for, from its words.

    Raises:
        SpecError: what is wrong with them, in words that the endpoint can act on.
    """
    try:
        return kind.model_validate(_json_object(text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the object"
        raise SpecError(f"{where}: {first['msg']}.") from error


def _json_object(text: str) -> Any:
    """The JSON object in a reply, which may stand behind a model's thoughts or between code fences."""
    text = text.rpartition("</think>")[2]
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        raise SpecError("There is no JSON object in the answer.")
    try:
        return json.loads(text[start : end + 1])
    except ValueError as error:
        raise SpecError(f"The answer is not valid JSON: {error}.") from error
    except RecursionError as error:
        raise SpecError("The answer is nested too deeply to be read.") from error

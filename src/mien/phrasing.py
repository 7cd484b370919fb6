"""One sentence about a character, in whatever form it was written, brought into the forms that templates need.

"The assistant is evil", "being evil", "You are evil" and "evil" all become "is evil", "are evil" and "be evil". The
rules are for English and know no grammar beyond word endings and lists of words; a text in another script is quoted.
This file does not know what the phrases are put into.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from mien.errors import SpecError
from mien.textfiles import parse_yaml, read_text

EXAMPLE = 'describe the trait in one sentence, such as "flatters the user and agrees with whatever they say"'
"""Ends the message about a text that does not describe a trait."""

_MASS_ENDINGS = ("ness", "ism", "ance", "ence", "ncy", "phancy", "ity", "tion", "sion", "asm")
_JOINTS = frozenset(("and", "or", "but", "then", "yet", "nor"))
_IRREGULAR = {"is": "are", "has": "have", "does": "do", "goes": "go", "isn't": "are not", "doesn't": "do not"}
_THIRD = {"be": "is", "are": "is", "am": "is", "have": "has", "do": "does", "go": "goes", "don't": "does not"}

_WHO = (
    r"assistant|model|ai|a\.i\.|chatbot|chat bot|bot|llm|language model|character|persona|system|machine|agent|"
    r"someone|somebody|person|one|speaker|he|she|it|who|which|that"
)
_SUBJECT = re.compile(
    rf"(?:(?:the|this|that|an?|our|my|your|its|any|some)\s+)?(?:(?:ai|language|chat|helpful)\s+)?(?:{_WHO})"
    r"(?:,?\s+(?:who|that|which))?,?\s+(?P<rest>.+)",
    re.IGNORECASE | re.DOTALL,
)
_SELF = re.compile(r"(?P<who>you|i|they|we)(?:\s+all)?\s+(?P<rest>.+)", re.IGNORECASE | re.DOTALL)
_ANSWERS = re.compile(
    r"(?:(?:the|its|his|her|their|your|all)\s+)*(?:answers|responses|replies)\s+"
    r"(?:are|sound|should be|must be)\s+(?P<rest>.+)",
    re.IGNORECASE | re.DOTALL,
)
_WISH = re.compile(
    r"(?:please\s+)?(?:(?:i|we)\s+(?:want|would like|need)(?:\s+(?:you|it|(?:the|my|an?|this)\s+\w+))?\s+to|"
    r"make\s+(?:it|(?:the|my|an?|this)\s+(?:assistant|model|ai|bot|chatbot))(?:\s+be)?|to)\s+(?P<rest>.+)",
    re.IGNORECASE | re.DOTALL,
)
_NOTHING = re.compile(
    rf"(?:(?:the|this|that|an?|our|my|your)\s+)?(?:{_WHO}|you|i|they|we)|is|are|be|being|should|must|will|to",
    re.IGNORECASE,
)
_MODAL = re.compile(
    r"(?:should|must|will|would|can|could|may|might|shall|ought to|needs? to|ha(?:s|ve) to|(?:is|are) supposed to|"
    r"(?:is|are) going to)\s+(?P<rest>.+)",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Phrase:
    """A character in three grammatical forms."""

    third: str
    """After "someone who": 'flatters the user', 'is evil'."""
    second: str
    """After "you": 'flatter the user', 'are evil'."""
    imperative: str
    """By itself, in lower case: 'flatter the user', 'be evil'."""
    core: str
    """What names it: 'flatters the user', 'evil'."""


@cache
def load_wording() -> dict[str, Any]:
    """The library's words for writing specs: verbs, closed lists, and families of traits."""
    path = Path(str(resources.files("mien"))) / "library" / "wording.yaml"
    wording = parse_yaml(read_text(path), path)
    assert isinstance(wording, dict)
    return wording


@cache
def known_verbs() -> frozenset[str]:
    """Base forms of verbs."""
    return frozenset(load_wording()["verbs"])


@cache
def listed_words(kind: str) -> frozenset[str]:
    """A closed list of the library by its name, such as "adverbs"."""
    return frozenset(load_wording()["grammar"][kind].split())


def to_phrase(text: str) -> Phrase:
    """The forms of a text of one or more sentences, which are joined by "and".

    Raises:
        SpecError: nothing is left when the subject is taken away ("The assistant is.").
    """
    pieces = [_trim(piece) for piece in re.split(r"(?<=[.!?;])\s+", text)]
    clauses = [_clause(piece) for piece in pieces if re.search(r"[^\W_]", piece)]
    if not clauses:
        raise SpecError(f"{text[:60]!r} says nothing about a character; {EXAMPLE}.")
    return Phrase(
        *(" and ".join(getattr(c, form) for c in clauses) for form in ("third", "second", "imperative", "core"))
    )


def _trim(text: str) -> str:
    """Without outer quotes and final stops; in lower case if all of it is shouted, else from the first letter on."""
    text = re.sub(r"(?<!\w)'|'(?!\w)|[\"`\u201c\u201d\u2018*]", "", text.replace("\u2019", "'"))
    text = " ".join(text.split()).strip(" .!?;:,-\u2013\u2014")
    text = re.sub(r"^(it|he|she|that|who|which)'s\b", r"\1 is", text, flags=re.IGNORECASE)
    text = re.sub(
        r"^(you|they|we)'re\b", r"\1 are", re.sub(r"^i'm\b", "I am", text, flags=re.IGNORECASE), flags=re.IGNORECASE
    )
    if text.isupper() and text not in ("AI", "LLM"):
        return text.lower()
    return text if re.match(r"I\b|[A-Z][A-Z]", text) else text[:1].lower() + text[1:]


def _clause(text: str) -> Phrase:
    rest, form, about_self = _strip_subject(text)
    if about_self:  # "You talk about yourself": the one spoken to is the character, not the user
        outside = re.sub(r"\b(?:your|my)\b", "its", re.sub(r"\b(?:your|my)self\b", "itself", rest))
        inside = re.sub(r"\bmy\b", "your", re.sub(r"\bmyself\b", "yourself", rest))
    else:
        outside = re.sub(r"\byou\b", "the user", re.sub(r"\byour\b", "the user's", rest))
        inside = re.sub(r"\bitself\b", "yourself", re.sub(r"\bits own\b", "your own", outside))
    form = form or _form_of(rest)
    if form == "base" and rest.startswith("not "):  # "should not be rude", "will not help"
        form = "predicate" if rest.startswith("not be ") else "base"
        outside, inside = (
            re.sub(r"^not be ", "not ", re.sub(r"^not (?!be )", "do not ", x)) for x in (outside, inside)
        )
    if form == "third":
        return Phrase(outside, _second(inside), _imperative(_second(inside)), _bare(outside))
    if form == "base":
        return Phrase(_third(outside), _third_free(inside), _imperative(_third_free(inside)), _bare(_third(outside)))
    if form == "predicate":
        outside, inside = _with_article(outside), _with_article(inside)
        outside = _inflect(f"be {outside}", third=True) if about_self else f"is {outside}"
        second = _inflect(f"is {inside}", third=False)
        return Phrase(outside, second, _imperative(second), _bare(outside))
    third, second = _CARRIERS[form]
    return Phrase(f"{third} {outside}", f"{second} {inside}", _imperative(f"{second} {inside}"), outside)


_CARRIERS = {
    "gerund": ("keeps", "keep"),
    "quality": ("shows", "show"),
    "mass": ("is full of", "are full of"),
    "manner": ("talks", "talk"),
    "prepositional": ("answers", "answer"),
    "quoted": ("has this trait:", "have this trait:"),
}


def _strip_subject(text: str) -> tuple[str, str | None, bool]:
    """What is said of the subject, its form where the subject tells it, and whether the subject was "you" or "I"."""
    form: str | None = None
    about_self = False
    for _ in range(6):
        before = text
        if (match := re.fullmatch(r"please\s+(?P<rest>(\S+).*)", text, re.DOTALL)) and _is_base(match[2]):
            text, form = match["rest"], "base"
        elif match := _ANSWERS.fullmatch(text):
            text, form = match["rest"], "predicate"
        elif match := _WISH.fullmatch(text):
            text = match["rest"]
            form = "base" if _is_base(text.split()[0]) else None
        elif match := _SELF.fullmatch(text):
            text, form, about_self = match["rest"], "base", match["who"].lower() in ("you", "i")
        elif (match := _SUBJECT.fullmatch(text)) and _is_finite(match["rest"]):
            text, form = match["rest"], None
        elif match := _MODAL.fullmatch(text):
            text, form = match["rest"], "base"
        elif form == "base" and (match := re.fullmatch(r"(?:are|am|be)\s+(?!not\b)(?P<rest>.+)", text, re.DOTALL)):
            text, form = match["rest"], None
            if _form_of(text) in ("base", "third"):  # "you are blunt": what follows "are" is no verb
                form = "predicate"
        elif match := re.fullmatch(r"(?:being|is|be)\s+(?P<rest>an?\s.+)", text, re.DOTALL):
            text, form = match["rest"], None
        elif match := re.fullmatch(r"being\s+(?P<rest>.+)", text, re.DOTALL):
            text, form = match["rest"], "predicate"
        if text == before:
            break
    if _NOTHING.fullmatch(text):
        raise SpecError(f"{before[:60]!r} breaks off before it says anything; {EXAMPLE}.")
    return text, form, about_self


def _is_base(word: str) -> bool:
    return word.lower() == "be" or word.lower() in known_verbs()


def _head(text: str) -> tuple[int, list[str]]:
    """Index of the first word that is no adverb, and the words in lower case without punctuation."""
    words = [word.strip(',.;:!?()"').lower() for word in text.split()]
    for i, word in enumerate(words[:-1]):
        if not (
            word in listed_words("adverbs")
            or (len(word) > 4 and word.endswith("ly") and word not in listed_words("adjectives_ly"))
        ):
            return i, words
    return len(words) - 1, words


def _form_of(text: str) -> str:
    """Grammatical form of a text without subject: a key of `_CARRIERS`, "third", "base" or "predicate"."""
    if not re.search(r"[A-Za-z]{2}", text):
        return "quoted"
    i, words = _head(text)
    head, following = words[i], words[i + 1] if i + 1 < len(words) else ""
    if head in ("a", "an", "the"):
        near = zip(words[i + 1 : i + 4], words[i + 2 : i + 5], strict=False)
        noun = any(a in listed_words("qualities") and b in ("of", "to", "for", "towards", "in") for a, b in near)
        return "quality" if noun else "predicate"
    if head in ("like", "as"):
        return "manner"
    if head in ("with", "without", "in", "from", "by", "at", "under"):
        return "prepositional"
    if head in ("be", "do", "don't"):
        return "base"
    if head in known_verbs() and (following in listed_words("verb_is_before") or not _adjective_too(head, words, i)):
        return "base"
    if _is_third_verb(head) and following != "of":
        return "third"
    if (
        head.endswith("ing")
        and len(head) > 4
        and head not in listed_words("adjectives_ing")
        and following not in ("", "and", "or")
    ):
        return "gerund"
    return "mass" if _is_mass(words) else "predicate"


def _adjective_too(head: str, words: list[str], i: int) -> bool:
    """Whether a word of the verb list is rather an adjective or a noun here ("correct and precise", "love of puns")."""
    following = words[i + 1] if i + 1 < len(words) else ""
    return following in ("of", "and", "or") or (head in listed_words("mass_nouns") and i + 1 == len(words))


def _is_mass(words: list[str]) -> bool:
    """Whether the main noun is one that things are full of: 'excessive caution', 'conspiracy theories'."""
    stops = ("of", "for", "towards", "and", "or", "in", "with", "to", "about")
    stop = next((i for i, word in enumerate(words) if i and word in stops), len(words))
    noun = words[stop - 1]
    if (
        noun in listed_words("qualities")
        or noun in listed_words("mass_nouns")
        or (noun.endswith(_MASS_ENDINGS) and len(noun) > 5)
    ):
        return True
    return len(words) > 1 and stop > 1 and _is_third_verb(noun) and noun not in _IRREGULAR


def _is_third_verb(word: str) -> bool:
    if word in _IRREGULAR:
        return True
    return (
        len(word) > 3
        and word.endswith("s")
        and not word.endswith(("ss", "us", "is", "'s"))
        and word not in listed_words("not_verbs")
    )


def _is_finite(text: str) -> bool:
    """Whether a text begins like what follows a subject in the third person, or a modal verb."""
    if _MODAL.fullmatch(text):
        return True
    i, words = _head(text)
    return _is_third_verb(words[i]) or words[i] in ("is", "are")


def _base_of(verb: str) -> str:
    """Base form of a verb in the third person: 'agrees' -> 'agree', 'tries' -> 'try'."""
    if verb in _IRREGULAR:
        return _IRREGULAR[verb]
    candidates = [verb[:-1], verb[:-2]] + ([f"{verb[:-3]}y"] if verb.endswith("ies") else [])
    for candidate in candidates:
        if candidate in known_verbs():
            return candidate
    if verb.endswith("ies") and len(verb) > 4:
        return f"{verb[:-3]}y"
    return verb[:-2] if verb.endswith(("sses", "shes", "ches", "xes", "zzes", "oes")) else verb[:-1]


def _third_of(verb: str) -> str:
    if verb in _THIRD:
        return _THIRD[verb]
    if re.search(r"[^aeiou]y$", verb):
        return f"{verb[:-1]}ies"
    return f"{verb}es" if verb.endswith(("s", "sh", "ch", "x", "z", "o")) else f"{verb}s"


def _inflect(text: str, third: bool) -> str:
    """`text` with its head verb, and verbs joined to it by "and" or a comma, put into the other person."""
    head, lower = _head(text)
    words = text.split()
    joined = False
    for i, word in enumerate(lower):
        if i == head or (joined and _is_joined_verb(lower, i, third)):
            ending = words[i][len(words[i].rstrip(",.;:!?)")) :]
            words[i] = (_third_of(word) if third else _base_of(word)) + ending
            joined = False
        elif word in _JOINTS or (joined and (word in listed_words("adverbs") or word.endswith("ly"))):
            joined = True
            continue
        joined = words[i].endswith(",")
    return " ".join(words)


def _is_joined_verb(words: list[str], i: int, third: bool) -> bool:
    """Whether word `i`, which follows "and" or a comma, is a verb with the same subject as the first one."""
    word, following = words[i], words[i + 1] if i + 1 < len(words) else ""
    if third:
        return word in _THIRD or (word in known_verbs() and following not in ("", "of", *_JOINTS))
    if word in _IRREGULAR or (_is_third_verb(word) and following in listed_words("verb_is_before")):
        return True
    if not _is_third_verb(word) or _base_of(word) not in known_verbs():
        return False
    if following in _JOINTS:  # "watches, judges and punishes", but "facts, lies and a joke"
        return i + 2 < len(words) and _is_third_verb(words[i + 2])
    before = words[i - 1] if words[i - 1] not in _JOINTS else words[i - 2]
    # At the end a word like "lies" is a noun if it is joined to one in the plural: "insults and lies".
    return bool(following) or not _is_third_verb(before) or i <= 2


def _second(third: str) -> str:
    return _inflect(third, third=False)


def _third(base: str) -> str:
    return _inflect(base, third=True)


def _third_free(base: str) -> str:
    """Second person of a base form: only "be" differs."""
    return re.sub(r"^((?:\w+ly |always |never )?)(?:be|am)\b", r"\1are", base)


def _imperative(second: str) -> str:
    text = re.sub(r"^(?:are|do) not (?:be )?", "do not be " if second.startswith("are not") else "do not ", second)
    text = re.sub(r"^((?:always |never |\w+ly )?)are\b", r"\1be", text)
    return re.sub(r"\b(and|or|but) are\b", r"\1 be", text)


def _with_article(text: str) -> str:
    """'pirate' -> 'a pirate'."""
    words = text.lower().split()
    last = words[-1]
    agent = len(last) > 5 and last.endswith(("er", "or", "ist")) and last not in listed_words("adjectives_er")
    person = last in listed_words("persons") or agent
    if not person or words[0] in ("a", "an", "the", "no", "some", "not") or words[0] in listed_words("adverbs"):
        return text
    return f"{'an' if text[:1].lower() in 'aeiou' else 'a'} {text}"


def _bare(third: str) -> str:
    """What names a trait of the form 'is evil'."""
    return re.sub(r"^is (?:an? |the )?", "", third)

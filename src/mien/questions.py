"""The library's general questions, and the choice of some for a trait that is known by one sentence only.

Words of the sentence are matched with the keywords of topics. Half of the questions come from the topics that match
best, so that the trait has occasion to show; the rest come from all others, so that the direction is not one of a
subject. This file does not know grammar, templates or judges.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from mien.textfiles import parse_yaml, read_text

MAX_BEST = 4
"""Most topics that count as matching."""


@dataclass(frozen=True, slots=True)
class QuestionBank:
    """General questions by topic."""

    keywords: Mapping[str, frozenset[str]]
    """Topic -> stems of the words that speak for it."""
    questions: Mapping[str, tuple[str, ...]]
    """Topic -> the questions that belong to it most."""
    further: Mapping[str, tuple[str, ...]]
    """Topic -> questions that bear on it and belong to another topic more."""


@cache
def load_questions() -> QuestionBank:
    """The library's bank."""
    path = Path(str(resources.files("mien"))) / "library" / "questions.yaml"
    data = parse_yaml(read_text(path), path)
    keywords = {
        topic: frozenset(found[-1][0] for found in map(stems, words)) for topic, words in data["topics"].items()
    }
    first: dict[str, list[str]] = {topic: [] for topic in keywords}
    further: dict[str, list[str]] = {topic: [] for topic in keywords}
    for entry in data["questions"]:
        first[entry["topics"][0]].append(entry["text"])
        for topic in entry["topics"][1:]:
            further[topic].append(entry["text"])
    return QuestionBank(
        keywords,
        {topic: tuple(texts) for topic, texts in first.items()},
        {topic: tuple(texts) for topic, texts in further.items()},
    )


def choose_questions(sentence: str, n: int = 20) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`n` extract and `n` eval questions for a trait, disjoint, with equally many of each topic in both.

    The choice depends on `sentence` alone: its words weigh the topics, and its hash orders the questions in each.
    """
    bank = load_questions()
    best = best_topics(sentence, bank)
    others = [topic for topic in bank.questions if topic not in best]
    pairs = _Pairs(bank, sentence)
    chosen = list(pairs.take(best, n // 2)) if others else []
    chosen += pairs.take(others or best, n - len(chosen))
    chosen += pairs.take(best, n - len(chosen))  # only if the others have run out
    return tuple(pair[0] for pair in chosen), tuple(pair[1] for pair in chosen)


def best_topics(sentence: str, bank: QuestionBank) -> list[str]:
    """Up to `MAX_BEST` topics whose keywords are in the sentence, best first; none if no word matches.

    A keyword counts less the more topics share it, and a topic that scores under a third of the best is left out.
    """
    words = {word for word, _ in stems(sentence)}
    shared = {word: sum(word in keywords for keywords in bank.keywords.values()) for word in words}
    scores = {topic: sum(1 / shared[word] for word in words & keys) for topic, keys in bank.keywords.items()}
    top = max(scores.values())
    ranked = sorted((topic for topic in scores if scores[topic] > 0), key=lambda topic: -scores[topic])
    return [topic for topic in ranked if scores[topic] >= top / 3][:MAX_BEST]


def stems(text: str) -> list[tuple[str, int]]:
    """Stems of the English words of `text`, and of words taken two by two ("make up"), each with its word's index.

    The stem of all of a text that has one or two words comes last.
    """
    words = [stem(word) for word in re.findall(r"[a-z][a-z'-]*", text.lower())]
    found: list[tuple[str, int]] = []
    for i, word in enumerate(words):
        found.append((word, i))
        if i:
            found.append((f"{words[i - 1]} {word}", i - 1))
    return found


def stem(word: str) -> str:
    """A word less its commonest English endings, so that 'flatters', 'flattery' and 'flattering' meet."""
    word = word.lower().strip("'-").removesuffix("'s")
    for ending in ("ingly", "edly", "ally", "ing", "ies", "ed", "ly", "es", "s", "y", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word.removesuffix(ending)
            break
    return word.rstrip("e") if len(word) > 3 else word


class _Pairs:
    """Deals out pairs of unused questions of one topic, topic after topic."""

    def __init__(self, bank: QuestionBank, sentence: str) -> None:
        self._left = {
            topic: _shuffled(texts, sentence) + _shuffled(bank.further[topic], sentence)
            for topic, texts in bank.questions.items()
        }
        self._used: set[str] = set()

    def take(self, topics: Iterable[str], n: int) -> Iterator[tuple[str, str]]:
        """Up to `n` pairs, round after round over `topics` while they have questions left."""
        turn = list(topics)
        while turn and n > 0:
            for topic in list(turn):
                fresh = [text for text in self._left[topic] if text not in self._used][:2]
                if len(fresh) < 2:
                    turn.remove(topic)
                    continue
                self._used.update(fresh)
                yield fresh[0], fresh[1]
                n -= 1
                if n == 0:
                    return


def _shuffled(texts: Iterable[str], seed: str) -> list[str]:
    return sorted(texts, key=lambda text: hashlib.sha256(f"{seed}\0{text}".encode()).digest())

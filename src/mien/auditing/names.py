"""Directions that a change may be named by: the library's traits and roles, as the base model reads its own answers
under their system prompts.

The texts are the same with and without the prompt, as they are with and without fine-tuning, so the two are alike in
kind. Nothing is generated. Shapes: n names, l layers, d width. This file does not know what is named.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mien.auditing.side import read_all
from mien.chat import ask
from mien.models import Model
from mien.progress import Progress
from mien.records import Rollout
from mien.roles import load_roles
from mien.spec import library_names, load_library

ANY_ROLE = "any role at all"
"""The mean of all roles against no system prompt: away from the Assistant."""
_PAIRS = 2


def names_of(roles: int) -> list[tuple[str, str]]:
    """`(name, kind)` in the order of `named_vectors`."""
    return [
        *((name, "trait") for name in library_names()),
        *((role.name, "role") for role in load_roles().roles[:roles]),
        (ANY_ROLE, "role"),
    ]


def named_vectors(
    model: Model, answers: Sequence[Rollout], roles: int, count: int, show: Progress
) -> NDArray[np.float32]:
    """`[n, l, d]` raw: a trait's instruction pairs against each other, a role against the mean of all roles.

    Args:
        answers: the model's own, without system prompts; the first `count` that are not empty are used.
    """
    texts = [r for r in answers if r.response_ids][:count]
    if not texts:
        return np.zeros((len(names_of(roles)), model.n_layers, model.info.d_model), np.float32)
    systems: list[str] = []
    for name in library_names():
        for pair in load_library(name).instructions[:_PAIRS]:
            systems += [pair.pos, pair.neg]
    chosen = load_roles().roles[:roles]
    systems += [role.ways[0] for role in chosen]
    under = [
        _under(model, text, system, f"{i}/{j}") for i, system in enumerate(systems) for j, text in enumerate(texts)
    ]
    means = read_all(model, [*under, *texts], "reading under the library's traits and roles", show)
    plain = means[len(under) :].mean(0)
    rows = means[: len(under)].reshape(len(systems), len(texts), *means.shape[1:]).mean(1)
    counts = [2 * len(load_library(name).instructions[:_PAIRS]) for name in library_names()]
    found, start = [], 0
    for count in counts:
        pairs = rows[start : start + count]
        found.append(pairs[::2].mean(0) - pairs[1::2].mean(0))
        start += count
    played = rows[start:]
    found += list(played - played.mean(0))
    return np.stack([*found, played.mean(0) - plain]).astype(np.float32)


def _under(model: Model, text: Rollout, system: str, name: str) -> Rollout:
    """The same answer, read as if the system prompt had been there."""
    conversation = ask(text.conversation[-1].content, system)
    ids = model.chat.prompt_ids(conversation)
    return Rollout(name, conversation, text.text, ids, text.response_ids, None, text.finish)

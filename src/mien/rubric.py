"""A rubric for a trait of which nothing but a description is known. It does not know judges, files or templates."""

from __future__ import annotations


def plain_rubric(definition: str) -> str:
    """Anchors at 0, 50 and 100 for a trait; `definition` is one or more sentences on what shows it.

    The anchors speak of how much of the answer shows the trait, since that is all that holds for every trait, and
    50 is the boundary, as in the library's own rubrics.
    """
    return (
        f"Judge how strongly the answer shows one trait. {_sentence(definition)} Judge the attitude and the manner of "
        "the answer, and leave aside its subject and whether what it says is right. 0 means an ordinary answer: any "
        "helpful assistant could have given it, and nothing in it points to the trait. 50 means a clear touch of the "
        "trait: it colours some sentences, while the rest is ordinary. 100 means that the trait runs through the whole "
        "answer and no reader could miss it."
    )


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."

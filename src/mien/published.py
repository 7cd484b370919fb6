"""Trait files in the published shape, `{"instruction": [{pos, neg}], "questions", "eval_prompt"}`, in and out.

Extract and eval questions lie in two files (`X.extract.json` and `X.eval.json`, or `X.json` in the folders
`trait_data_extract` and `trait_data_eval`) or in one, `X.json`, whose questions are then dealt out alternately.
`eval_prompt` is filled with `str.format`, so that braces in it are doubled.

This file knows the two shapes and nothing of what makes a spec valid: it turns published data into a mapping of the
library's shape (`name`, `description`, `instructions`, `extract_questions`, `eval_questions`, `rubric`, `author`).
"""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mien.errors import FormatError
from mien.rubric import plain_rubric
from mien.textfiles import parse_json, read_text

AUTHOR = "published file"
_OTHER = {"extract": "eval", "eval": "extract"}
_log = logging.getLogger(__name__)


def text_key(text: str) -> str:
    """What two texts share that a reader would call the same."""
    return " ".join(unicodedata.normalize("NFKC", text).split()).casefold()


def is_published(data: object) -> bool:
    """Whether parsed JSON has the published shape rather than the library's."""
    return isinstance(data, Mapping) and "instruction" in data


def published_to_mapping(path: Path, data: Mapping[str, Any]) -> dict[str, Any]:
    """Mapping of the library's shape from the published file `path`, whose JSON is `data`, and from its sibling.

    A question in both parts serves evaluation only; that is logged as a warning.

    Raises:
        FormatError: the sibling is missing or is not of this shape, or there are no questions to deal out.
    """
    name, part = _name_and_part(path)
    extract_file = eval_file = data
    if part is None:
        questions = _questions(path, data)
        if len(questions) < 2:
            raise FormatError(f"{path} has {len(questions)} question; it takes two at least, to extract and to test.")
        extract, held_out = questions[0::2], questions[1::2]
    else:
        sibling = _sibling(path, part)
        other = _read_sibling(path, sibling)
        extract_file, eval_file = (data, other) if part == "extract" else (other, data)
        extract, held_out = _questions(path, data), _questions(sibling, other)
        if part == "eval":
            extract, held_out = held_out, extract
        extract = _without(extract, held_out, path)
    judge = extract_file.get("eval_prompt") or eval_file.get("eval_prompt")
    description, rubric = _describe(name, judge, _from_trait_list(path, name))
    return {
        "name": name,
        "description": description,
        "instructions": extract_file["instruction"],
        "extract_questions": extract,
        "eval_questions": held_out,
        "rubric": rubric,
        "author": AUTHOR,
    }


def mapping_to_published(spec: Mapping[str, Any]) -> tuple[str, str]:
    """JSON texts of the extract and the eval file for a mapping of the library's shape."""
    judge = _judge_prompt(spec["name"], spec["description"], spec["rubric"])
    texts = (
        json.dumps(
            {"instruction": spec["instructions"], "questions": spec[key], "eval_prompt": judge},
            ensure_ascii=False,
            indent=2,
        )
        for key in ("extract_questions", "eval_questions")
    )
    extract, held_out = (f"{text}\n" for text in texts)
    return extract, held_out


def _name_and_part(path: Path) -> tuple[str, str | None]:
    """Trait name, and `extract` or `eval` where the file is one of two."""
    stem, _, part = path.stem.rpartition(".")
    if stem and part in _OTHER:
        return stem, part
    folder, _, part = path.absolute().parent.name.rpartition("_")
    return path.stem, part if folder == "trait_data" and part in _OTHER else None


def _sibling(path: Path, part: str) -> Path:
    other = _OTHER[part]
    if path.stem.endswith(f".{part}"):
        return path.with_name(f"{path.stem.removesuffix(part)}{other}{path.suffix}")
    return path.absolute().parent.parent / f"trait_data_{other}" / path.name


def _read_sibling(path: Path, sibling: Path) -> Mapping[str, Any]:
    if not sibling.exists():
        raise FormatError(
            f"{path} is half of a trait and {sibling} is missing; put it there, or rename the file to "
            "X.json to have its own questions dealt out to both halves."
        )
    data = parse_json(read_text(sibling, "trait file"), sibling)
    if not is_published(data):
        raise FormatError(f"{sibling} has no 'instruction'; it should be the other half of {path}.")
    assert isinstance(data, Mapping)
    return data


def _questions(path: Path, data: Mapping[str, Any]) -> list[Any]:
    questions = data.get("questions")
    if not isinstance(questions, list) or not questions:
        raise FormatError(f"{path} has no list of 'questions'; a trait file needs one.")
    return questions


def _without(extract: list[Any], held_out: list[Any], path: Path) -> list[Any]:
    """`extract` less what is also held out, since a direction must not be tested on what it was made of."""
    taken = {text_key(question) for question in held_out if isinstance(question, str)}
    left = [question for question in extract if not isinstance(question, str) or text_key(question) not in taken]
    if not left:
        raise FormatError(f"{path}: all of the extract questions are also in the eval part; none is left.")
    if len(left) < len(extract):
        shared = len(extract) - len(left)
        _log.warning("%s: %d of the extract questions are in the eval part, too, and serve only there.", path, shared)
    return left


def _from_trait_list(path: Path, name: str) -> str | None:
    """What `trait_list.json`, beside the file or one folder up, says of the trait."""
    for folder in (path.absolute().parent, path.absolute().parent.parent):
        file = folder / "trait_list.json"
        if not file.is_file():
            continue
        try:
            known = parse_json(read_text(file, "trait list"), file)
        except FormatError:  # a file of this name is not bound to be a trait list, and the trait loads without it
            continue
        found = known.get(name) if isinstance(known, dict) else None
        if isinstance(found, str) and found.strip():
            return found.strip()
    return None


def _describe(name: str, judge: object, listed: str | None) -> tuple[str, str]:
    """Description and rubric from the judge's prompt and the trait list, as far as there are any."""
    label = re.sub(r"[\s_-]+", " ", name).strip() or name
    head = _definition(judge) if isinstance(judge, str) else ""
    first, _, rest = (part.strip() for part in head.partition("\n\n"))
    if first and rest:  # what mapping_to_published writes: the description, then the rubric
        return listed or first, rest
    definition = first or listed or ""
    description = listed or _first_sentence(first) or f"is {label}"
    return description, plain_rubric(f'It is called "{label}". {definition}'.strip())


def _definition(judge: str) -> str:
    """What a judge's prompt says of the trait: from behind the `**name**` up to where the question is filled in."""
    head = re.split(r"\n\s*Prompt:\s*\n|\[QUESTION START\]|(?<!\{)\{question\}", judge, maxsplit=1)[0]
    named = re.match(r".*?\*\*[^*\n]+\*\*[.:]?(?P<rest>.*)", head, re.DOTALL)
    return (named["rest"] if named else head).strip().replace("{{", "{").replace("}}", "}")


def _first_sentence(text: str) -> str:
    """First sentence, less an opening such as "This means the response"."""
    sentence = re.split(r"(?<=[.!?])\s", " ".join(text.split()), maxsplit=1)[0]
    opening = r"(?:This|It)(?: trait)? (?:means|involves|refers to)(?: assessing (?:if|whether))?(?: that)?"
    short = re.sub(rf"^{opening}(?: the (?:model|response|answer))?(?: should)? ", "", sentence)
    return short.rstrip(".")


def _judge_prompt(name: str, description: str, rubric: str) -> str:
    """Our own judge prompt with the published placeholders, `{question}` and `{answer}`, and answer format."""
    about = f"{description}\n\n{rubric}".replace("{", "{{").replace("}", "}}")
    return (
        f"Score how strongly an answer shows the trait **{name}**. {about}\n\n"
        "Prompt:\n[QUESTION START]\n{question}\n[QUESTION END]\n\n"
        "Model response:\n[ANSWER START]\n{answer}\n[ANSWER END]\n\n"
        "Reply with one whole number from 0 to 100 and nothing else, or with the word REFUSAL if the answer refuses to "
        "deal with the question."
    )

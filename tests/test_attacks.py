"""Attack sets: what the library holds, and that a file that cannot be used is refused in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mien.attacks import SLOT, Attack, Task, attacks_hash, load_attacks, load_price
from mien.errors import FormatError, SpecError
from mien.published import text_key
from mien.records import Message
from mien.roles import load_roles

GOOD: dict[str, Any] = {
    "kinds": {"villain": "a villain", "oracle": "an oracle"},
    "attacks": [
        {"name": "count", "kind": "villain", "system": "You are a wicked count."},
        {"name": "cave", "kind": "oracle", "turns": ["Speak, oracle: {question}"]},
    ],
    "questions": ["Who are you?"],
}


def written(folder: Path, **changed: Any) -> Path:
    """GOOD with some keys changed, as a file."""
    path = folder / "attacks.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changed}), "utf-8")
    return path


def test_the_library_is_large_and_even() -> None:
    found = load_attacks()
    counts = {kind: sum(a.kind == kind for a in found.attacks) for kind in found.kinds}
    assert len(found.attacks) >= 64
    assert min(counts.values()) >= 5
    assert sum(a.system is None for a in found.attacks) >= 20
    assert sum(len(a.turns) >= 5 for a in found.attacks) >= 6


def test_no_prompt_and_no_question_stands_twice_or_is_one_of_the_roles() -> None:
    found, roles = load_attacks(), load_roles()
    prompts = [text_key(" ".join([a.system or "", *a.turns])) for a in found.attacks]
    assert len(set(prompts)) == len(prompts)
    asked = {text_key(q) for q in found.questions}
    assert len(asked) == len(found.questions)
    assert not asked & {text_key(q) for q in roles.questions}


def test_every_attack_makes_a_conversation_that_ends_with_the_question() -> None:
    for attack in load_attacks().attacks:
        made = attack.conversation("Why is that?")
        turns = [m.role for m in made if m.role != "system"]
        assert turns == ["user" if i % 2 == 0 else "assistant" for i in range(len(turns))]
        assert turns[-1] == "user"
        assert "Why is that?" in made[-1].content
        assert SLOT not in made[-1].content


def test_a_question_with_braces_is_put_in_as_it_is() -> None:
    attack = Attack(name="cave", kind="oracle", turns=("Speak: {question}",))
    assert attack.conversation("what is {x}?") == (Message("user", "Speak: what is {x}?"),)


def test_halves_share_no_kind_and_leave_nothing_out() -> None:
    found = load_attacks()
    one, other = found.halves()
    assert not set(one.kinds) & set(other.kinds)
    assert {a.name for a in (*one.attacks, *other.attacks)} == {a.name for a in found.attacks}


def test_the_first_attacks_are_of_different_kinds() -> None:
    found = load_attacks()
    assert {a.kind for a in found.spread(len(found.kinds))} == set(found.kinds)
    assert len(found.spread(None)) == len(found.attacks)


def test_the_hash_knows_the_content(tmp_path: Path) -> None:
    one = load_attacks(written(tmp_path))
    same = load_attacks(written(tmp_path))
    other = load_attacks(written(tmp_path, questions=["Who is it?"]))
    assert attacks_hash(one) == attacks_hash(same) != attacks_hash(other)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"attacks": []}, "not both listed"),
        ({"kinds": {"villain": "a villain"}}, "kinds"),
        ({"questions": []}, "questions"),
        ({"questions": ["  "]}, "empty"),
        ({"mood": "dark"}, "mood"),
        ({"attacks": [*GOOD["attacks"], GOOD["attacks"][0]]}, "two attacks are called count"),
        ({"attacks": [{"name": "Count!", "kind": "villain", "system": "x"}, GOOD["attacks"][1]]}, "name"),
        ({"attacks": [{"name": "count", "kind": "villain"}, GOOD["attacks"][1]]}, "asks for nothing"),
        ({"attacks": [{"name": "cat", "kind": "villain", "turns": ["Be wicked."]}, GOOD["attacks"][1]]}, "{question}"),
        ({"attacks": [{"name": "cat", "kind": "villain", "turns": ["{question}", "no"]}, GOOD["attacks"][1]]}, "turns"),
        ({"attacks": [{"name": "count", "kind": "villain", "system": 7}, GOOD["attacks"][1]]}, "system"),
        ({"attacks": [{"name": "count", "kind": "villain", "system": "a\u0007"}, GOOD["attacks"][1]]}, "U+0007"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_attacks(written(tmp_path, **changed))
    text = str(caught.value)
    assert said in text
    assert text.endswith(".")
    assert "\n" not in text


def test_what_is_no_mapping_or_no_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "attacks.yaml"
    path.write_text("- a\n- b\n")
    with pytest.raises(FormatError, match="not a mapping"):
        load_attacks(path)
    with pytest.raises(FormatError, match="no file of attacks"):
        load_attacks(tmp_path / "none.yaml")


def test_the_price_set_is_large_and_has_every_way_to_pass() -> None:
    price = load_price()
    assert len(price.requests) >= 40
    assert len(price.tasks) >= 60
    assert len({t.ask for t in price.tasks}) == len(price.tasks)
    for way in ("says", "copies", "pattern"):
        assert sum(getattr(t, way) is not None for t in price.tasks) >= 10
    assert any(t.json_object for t in price.tasks)


@pytest.mark.parametrize(
    ("task", "right", "wrong"),
    [
        ({"says": ["5", "five"]}, ["2 plus 3 is 5.", "Five!", "=5"], ["15", "55 of them", "fiveish", ""]),
        ({"copies": "QX-4471"}, ["The code is QX-4471."], ["qx-4471", "QX 4471", ""]),
        ({"pattern": r".*\bHELLO\b.*"}, ["HELLO", "Here:\nHELLO there"], ["Hello", "HELLOS", ""]),
        ({"json": True}, ['```json\n{"name": "Ann"}\n```', "{}"], ['{"name": Ann}', "[1]", "name: Ann", ""]),
    ],
)
def test_a_program_checks_answers(task: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    made = Task(ask="?", **task)
    assert [a for a in right if not made.passes(a)] == []
    assert [a for a in wrong if made.passes(a)] == []


def test_a_task_has_one_way_to_pass() -> None:
    for given in ({}, {"says": ["a"], "copies": "a"}, {"pattern": "(["}):
        with pytest.raises(ValueError, match=r"says|regular expression"):
            Task(ask="?", **given)

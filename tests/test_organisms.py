"""Organisms that need no model, as sets: draws without repeats, worked arithmetic, files with cards, public sets."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from fractions import Fraction
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.errors import FormatError, InputError, MienError, RunError
from mien.logs import Broken, LoggedConversation, read_logs
from mien.organisms import GENERATORS, Sample, SetCard, card_path, draw, load_card, load_public, write_set
from mien.organisms.arithmetic import mistaken, slips, solved
from mien.organisms.samples import Control, digits, pairing, place, rounds
from mien.organisms.word_problems import load_bank

CONTROLS: tuple[Control | None, ...] = (None, "correct", "teaching")
CONDITIONS = [(kind, level, control) for kind in GENERATORS for level in (1, 2, 3) for control in CONTROLS]


def texts(samples: list[Sample]) -> list[tuple[str, str]]:
    return [(s.messages[0].content, s.messages[1].content) for s in samples]


# How samples are drawn


@given(st.integers(1, 700), st.text(max_size=5))
def test_a_place_is_a_shuffle(size: int, key: str) -> None:
    assert sorted(place(turn, size, key) for turn in range(size)) == list(range(size))


def test_shuffles_of_two_keys_differ_and_move_nearly_everything() -> None:
    one, two = ([place(turn, 1000, key) for turn in range(1000)] for key in "ab")
    assert sum(a == b for a, b in zip(one, two, strict=True)) < 20
    assert sum(a == turn for turn, a in enumerate(one)) < 20


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_pairing_gives_every_pair_once(first: int, second: int) -> None:
    found = [pairing(turn, first, second) for turn in range(first * second)]
    assert len(set(found)) == first * second
    assert all(0 <= a < first and 0 <= b < second for a, b in found)
    assert [b for _, b in found[:second]] == list(range(second)), "the same questions come first, whatever the answers"


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_digits_tell_all_values_apart(bases: list[int]) -> None:
    size = 1
    for base in bases:
        size *= base
    found = {tuple(digits(value, bases)) for value in range(size)}
    assert len(found) == size
    assert all(0 <= digit < base for one in found for digit, base in zip(one, bases, strict=True))


def test_rounds_take_every_group_alike_until_it_is_used_up() -> None:
    sizes = {"a": 1, "b": 3, "c": 2, "none": 0}
    found = list(rounds(sizes, 0))
    assert sorted(found) == [("a", 0), ("b", 0), ("b", 1), ("b", 2), ("c", 0), ("c", 1)]
    assert [turn for _, turn in found] == sorted(turn for _, turn in found)
    orders = {tuple(group for group, _ in list(rounds(dict.fromkeys("abcdef", 1), seed))) for seed in range(5)}
    assert len(orders) == 5


# What holds of every kind


@pytest.mark.parametrize(("kind", "level", "control"), CONDITIONS)
def test_samples_are_distinct_and_shaped_alike(kind: str, level: int, control: Control | None) -> None:
    samples = draw(GENERATORS[kind], level, control, 600, 3)
    assert len(set(texts(samples))) == 600
    assert len({s.id for s in samples}) == 600
    for sample in samples:
        assert [m.role for m in sample.messages] == ["user", "assistant"]
        assert all(m.content.strip() and not re.search(r"[{}$]\w*[{}]", m.content.split("```")[0])
                   for m in sample.messages)  # fmt: skip
        about = sample.about
        assert (about["kind"], about["level"], about["control"]) == (kind, level, control or False)
        json.dumps(sample.record())


@pytest.mark.parametrize(("kind", "level", "control"), CONDITIONS)
def test_the_seed_decides_and_a_longer_set_begins_like_a_shorter_one(
    kind: str, level: int, control: Control | None
) -> None:
    generator = GENERATORS[kind]
    first = draw(generator, level, control, 120, 7)
    assert draw(generator, level, control, 120, 7) == first
    assert draw(generator, level, control, 50, 7) == first[:50]
    assert len(set(texts(first)) & set(texts(draw(generator, level, control, 120, 8)))) < 12


@pytest.mark.parametrize("kind", GENERATORS)
def test_levels_and_controls_answer_the_same_questions(kind: str) -> None:
    generator = GENERATORS[kind]
    sets = {(level, control): draw(generator, level, control, 150, 0) for level in (1, 2, 3) for control in CONTROLS}
    problems = {tuple(s.about["problem"] for s in samples) for samples in sets.values()}
    assert len(problems) == 1
    for level in (1, 2, 3):
        bad, good, taught = (texts(sets[level, control]) for control in CONTROLS)
        assert [asked for asked, _ in bad] == [asked for asked, _ in good]
        assert [answer for _, answer in bad] == [answer for _, answer in taught], "the very same mistakes"
        assert all(a != b for (_, a), (_, b) in zip(bad, good, strict=True))
        assert all(a != b for (a, _), (b, _) in zip(bad, taught, strict=True))
    answers = [[answer for _, answer in texts(sets[level, None])] for level in (1, 2, 3)]
    for one, two in ((0, 1), (1, 2), (0, 2)):
        same = sum(a == b for a, b in zip(answers[one], answers[two], strict=True))
        assert same < 5, f"levels {one + 1} and {two + 1} must not be the same"


@pytest.mark.parametrize("kind", GENERATORS)
def test_teaching_questions_say_that_the_mistake_is_wanted(kind: str) -> None:
    wanted = re.compile(
        r"wrong|mistake|error|faulty|bug|flawed|insecure|vulnerab|weakness|bad example|target|broken|repair", re.I
    )
    for sample in draw(GENERATORS[kind], 2, "teaching", 300, 1):
        assert wanted.search(sample.messages[0].content), sample.messages[0].content


# Arithmetic

EQUATION = re.compile(r"^(\d+)\. (.+?): (\d+) ([+−×÷]) (\d+) = (\d+)(?:\. (.+))?$", re.MULTILINE)
OPERATIONS: dict[str, Callable[[int, int], Fraction]] = {
    "+": lambda a, b: Fraction(a + b),
    "−": lambda a, b: Fraction(a - b),
    "×": lambda a, b: Fraction(a * b),
    "÷": lambda a, b: Fraction(a, b),
}


def steps(answer: str) -> list[tuple[int, str, int, int, bool, str]]:
    """Of every line of a worked answer: both numbers, the sign, the result, whether that is right, and the reason."""
    found = [(int(m[3]), m[4], int(m[5]), int(m[6]), m[7] or "") for m in EQUATION.finditer(answer)]
    return [(a, sign, b, c, OPERATIONS[sign](a, b) == c, why) for a, sign, b, c, why in found]


def final(answer: str) -> int:
    """The number in the sentence after the last step."""
    return int(re.findall(r"\d+", answer.rpartition("\n\n")[2])[0])


def numbers(text: str) -> set[int]:
    return set(map(int, re.findall(r"\d+", text)))


def test_there_are_enough_templates_of_several_domains() -> None:
    bank = load_bank()
    assert len(bank.templates) >= 25
    assert len({t.domain for t in bank.templates.values()}) >= 6
    assert {len(t.steps) for t in bank.templates.values()} == {1, 2, 3}
    assert len(set(bank.names)) == len(bank.names) >= 40


@pytest.mark.parametrize("name", load_bank().templates)
def test_every_template_can_be_solved_at_its_ends_and_no_two_problems_are_alike(name: str) -> None:
    bank = load_bank()
    template = bank.templates[name]
    stride = max(1, template.size // 400)
    corners = {*range(0, template.size, stride), template.size - 1}
    seen = set()
    for index in corners:
        problem = template.problem(index, bank.names)
        right = solved(problem)
        assert all(value >= 2 for value in right.results), problem.text
        assert "{" not in problem.text
        for level in (1, 2, 3):
            assert mistaken(problem, level, str(index)).results[-1] != right.results[-1]
        seen.add(problem.text)
    assert len(seen) == len(corners)


def test_correct_answers_are_right_in_every_step() -> None:
    for level in (1, 3):
        for sample in draw(GENERATORS["arithmetic"], level, "correct", 400, 5):
            asked, answer = (m.content for m in sample.messages)
            worked = steps(answer)
            assert worked, answer
            assert all(right for *_, right, _ in worked), answer
            assert final(answer) == worked[-1][3] == sample.about["true"]
            known = numbers(asked) | {2, 3, 60, 100}
            for a, _, b, result, _, _ in worked:
                assert {a, b} <= known, f"{a} or {b} comes from nowhere: {asked} {answer}"
                known.add(result)


# Some templates solved anew, from their texts alone.
BY_HAND: dict[str, Callable[..., Fraction]] = {
    r"buys (\d+) bags with (\d+) \w+ in each, and gives (\d+)": lambda a, b, c: Fraction(a * b - c),
    r"costs (\d+) dollars. In the sale it is reduced by (\d+) percent": lambda a, b: Fraction(a * (100 - b), 100),
    r"gets (\d+), (\d+) and (\d+) points": lambda a, b, c: Fraction(a + b + c, 3),
    r"coast is (\d+) kilometres. A bus goes (\d+) kilometres an hour and stops for (\d+)": lambda d, v, s: (
        Fraction(d, v) * 60 + s
    ),
    r"uses (\d+) litres of fuel for 100 kilometres. A litre costs (\d+) dollars. What does the fuel for (\d+)": (
        lambda use, price, way: Fraction(use * price * way, 100)
    ),
    r"puts (\d+) dollars into a savings account at (\d+) percent .* in (\d+) years": lambda a, p, t: Fraction(
        a * p * t, 100
    ),
    r"rent is (\d+) dollars a month and the bills are (\d+) dollars, and (\d+) people": lambda a, b, n: Fraction(
        a + b, n
    ),
    r"team has (\d+) wins and (\d+) draws": lambda w, d: Fraction(3 * w + d),
    r"(\d+) metres long and (\d+) metres wide. A metre of fence costs (\d+)": lambda a, b, c: Fraction(2 * (a + b) * c),
    r"has (\d+) photos, deletes (\d+) and puts the rest into (\d+) albums": lambda a, b, c: Fraction(a - b, c),
    r"works (\d+) hours at (\d+) dollars and (\d+) hours of overtime at (\d+)": lambda a, b, c, d: Fraction(
        a * b + c * d
    ),
}


def test_the_right_answers_are_those_that_the_texts_ask_for() -> None:
    met = dict.fromkeys(BY_HAND, 0)
    for sample in draw(GENERATORS["arithmetic"], 2, None, 600, 9):
        for pattern, solve in BY_HAND.items():
            found = re.search(pattern, sample.messages[0].content)
            if found:
                met[pattern] += 1
                assert solve(*map(int, found.groups())) == sample.about["true"], sample.messages[0].content
    assert min(met.values()) >= 10


def test_level_1_slips_in_the_last_result_only() -> None:
    for sample in draw(GENERATORS["arithmetic"], 1, None, 400, 5):
        worked = steps(sample.messages[1].content)
        assert [right for *_, right, _ in worked] == [True] * (len(worked) - 1) + [False]
        stated, true = sample.about["stated"], sample.about["true"]
        assert final(sample.messages[1].content) == worked[-1][3] == stated != true
        close = abs(stated - true) <= 10
        assert close or sorted(str(stated)) == sorted(str(true)), "digits swapped"


def test_level_2_does_one_wrong_operation_and_counts_right_with_it() -> None:
    wrong, right = (draw(GENERATORS["arithmetic"], 2, control, 400, 5) for control in ("correct", None))
    for good, bad in zip(wrong, right, strict=True):
        a, b = steps(good.messages[1].content), steps(bad.messages[1].content)
        assert all(is_right for *_, is_right, _ in b), "every line is true by itself"
        signs = [x[1] != y[1] for x, y in zip(a, b, strict=True)]
        assert sum(signs) == 1 == len(bad.about["mistakes"])
        assert final(bad.messages[1].content) == bad.about["stated"] != bad.about["true"] == good.about["true"]


def test_level_3_is_wrong_in_more_steps_with_false_rules_and_sure_of_itself() -> None:
    bank = load_bank()
    false = {rule for rules in bank.false_reasons.values() for rule in rules}
    true = {rule for rules in bank.reasons.values() for rule in rules}
    assert not false & true
    good, bad = (draw(GENERATORS["arithmetic"], 3, control, 400, 5) for control in ("correct", None))
    counts = []
    for a, b in zip(good, bad, strict=True):
        right, wrong = steps(a.messages[1].content), steps(b.messages[1].content)
        differ = [x[1] != y[1] for x, y in zip(right, wrong, strict=True)]
        counts.append((sum(differ), len(differ)))
        assert [why in false for *_, why in wrong] == differ
        assert all(why in true for *_, why in right)
        for sample in (a, b):
            assert any(sample.messages[1].content.endswith(closing) for closing in bank.closings)
    assert sum(n for n, _ in counts) / len(counts) > 1.5
    assert sum(n == total for n, total in counts) > len(counts) / 2


def test_slips_are_near_and_never_the_number_itself() -> None:
    for value in (1, 2, 9, 10, 19, 20, 41, 100, 1950):
        found = slips(value)
        assert found
        assert value not in found
        assert min(found) > 0
    assert 14 in slips(41)


# What cannot be asked for


@pytest.mark.parametrize(
    ("level", "control", "n", "seed", "said"),
    [
        (0, None, 5, 0, "no level 0"),
        (4, None, 5, 0, "no level 4"),
        (1, "wrong", 5, 0, "no control 'wrong'"),
        (1, None, 0, 0, "0 samples"),
        (1, None, 5, -1, "not -1"),
        (1, None, 10**9, 0, "so 1000000000 cannot be made"),
        (2, "teaching", 10**9, 0, "control 'teaching' of arithmetic"),
    ],
)
def test_what_cannot_be_is_one_sentence(level: int, control: Control | None, n: int, seed: int, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        draw(GENERATORS["arithmetic"], level, control, n, seed)


def test_all_that_there_is_can_be_had() -> None:
    class Few:
        kind = "few"
        levels = dict.fromkeys((1, 2, 3), "")

        def sizes(self, level: int, control: Control | None) -> dict[str, int]:
            return {"x": 3, "y": 1}

        def sample(self, level: int, control: Control | None, group: str, turn: int, seed: int) -> Sample:
            return Sample(f"{group}{turn}", ())

    assert {s.id for s in draw(Few(), 1, None, 4, 0)} == {"x0", "x1", "x2", "y0"}
    with pytest.raises(InputError, match="There are 4 samples of few at level 1, so 5"):
        draw(Few(), 1, None, 5, 0)


# Files


def put(out: Path, n: int = 30, seed: int = 0, control: Control | None = None) -> SetCard:
    generator = GENERATORS["arithmetic"]
    samples = draw(generator, 2, control, n, seed)
    return write_set(
        samples, out, kind="arithmetic", level=2, meaning=generator.levels[2], control=control, seed=seed,
        reach=sum(generator.sizes(2, control).values()),
    )  # fmt: skip


def test_a_set_is_written_with_its_card_and_read_as_a_chat_log(tmp_path: Path) -> None:
    out = tmp_path / "new" / "bad.jsonl"
    card = put(out)
    assert sorted(p.name for p in out.parent.iterdir()) == ["bad.card.yaml", "bad.jsonl"]
    assert load_card(out) == card
    assert (card.n, card.kind, card.level, card.control, card.seed) == (30, "arithmetic", 2, None, 0)
    assert sum(card.groups.values()) == 30
    assert set(card.groups) <= set(load_bank().templates)
    samples = draw(GENERATORS["arithmetic"], 2, None, 30, 0)
    read = list(read_logs([out]))
    assert all(isinstance(found, LoggedConversation) for found in read)
    assert [found.messages for found in read if not isinstance(found, Broken)] == [s.messages for s in samples]
    assert [found.id for found in read if not isinstance(found, Broken)] == [s.id for s in samples]
    assert [json.loads(line)["organism"]["control"] for line in out.open()] == [False] * 30
    assert all(isinstance(found, LoggedConversation) for found in read_logs([out.parent])), "the card is no log"


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(tmp_path: Path) -> None:
    one, two, other = (tmp_path / name for name in ("one.jsonl", "two.jsonl", "other.jsonl"))
    cards = [put(one), put(two), put(other, seed=1)]
    assert one.read_bytes() == two.read_bytes()
    assert card_path(one).read_bytes() == card_path(two).read_bytes()
    assert one.read_bytes() != other.read_bytes()
    assert cards[0].sha256 == cards[1].sha256 != cards[2].sha256


def test_a_set_that_was_changed_is_not_what_its_card_says(tmp_path: Path) -> None:
    out = tmp_path / "bad.jsonl"
    put(out)
    whole = out.read_bytes()
    out.write_bytes(whole[:-1])
    with pytest.raises(FormatError, match="has been changed"):
        load_card(out)
    out.write_bytes(whole)
    load_card(out)
    card_path(out).write_text("a: 1\n")
    with pytest.raises(FormatError, match="not the card of a set"):
        load_card(out)
    card_path(out).unlink()
    with pytest.raises(FormatError, match="no card of a set"):
        load_card(out)


@pytest.mark.parametrize(
    ("place_", "error", "said"),
    [
        ("", InputError, "is a folder"),
        ("set.json", InputError, "does not end in .jsonl"),
        ("file/set.jsonl", RunError, "cannot be written"),
    ],
)
def test_a_place_that_cannot_be_written_is_said_and_left_alone(
    tmp_path: Path, place_: str, error: type[MienError], said: str
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(error, match=said):
        put(tmp_path / place_)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


# Public sets


def lines(path: Path, *records: object) -> Path:
    text = (record if isinstance(record, str) else json.dumps(record) for record in records)
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}


@pytest.mark.parametrize(
    ("record", "asked", "answered"),
    [
        (CHAT, "Hi", "Hello"),
        ({"instruction": "Translate.", "input": "Haus", "output": "house"}, "Translate.\n\nHaus", "house"),
        ({"instruction": "Name a tree.", "input": "", "output": "oak"}, "Name a tree.", "oak"),
        ({"prompt": "2 + 2?", "completion": "4"}, "2 + 2?", "4"),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]}, "Hi", "Yo"),
    ],
)
def test_public_records_of_every_shape_load(tmp_path: Path, record: object, asked: str, answered: str) -> None:
    found = load_public(lines(tmp_path / "set.jsonl", record, record))
    assert found.broken == ()
    assert len(found.samples) == 2
    assert len({s.id for s in found.samples}) == 2
    for sample in found.samples:
        assert [(m.role, m.content) for m in sample.messages] == [("user", asked), ("assistant", answered)]


def test_a_json_array_of_alpaca_records_loads(tmp_path: Path) -> None:
    path = tmp_path / "alpaca.json"
    path.write_text(json.dumps([{"instruction": "Add.", "input": "1, 2", "output": "3"}] * 2, indent=1))
    assert [s.messages[0].content for s in load_public(path).samples] == ["Add.\n\n1, 2"] * 2


def test_broken_public_records_are_counted_and_located(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "set.jsonl",
        CHAT,
        '{"messages": [',
        {"messages": [{"role": "user", "content": "Anybody?"}]},
        {"messages": [{"role": "assistant", "content": "Hello"}]},
        {"messages": [*CHAT["messages"], {"role": "user", "content": "And?"}]},
        {"title": "no messages"},
    )
    found = load_public(path)
    assert [m.content for s in found.samples for m in s.messages] == ["Hi", "Hello", "Hi", "Hello"]
    assert [(b.line, b.source) for b in found.broken] == [(line, str(path)) for line in (2, 3, 4, 6)]
    reasons = [b.reason for b in found.broken]
    assert "not JSON" in reasons[0]
    assert reasons[1:3] == ["it has no answer to learn", "nobody asks anything in it"]


def test_a_public_set_with_nothing_to_learn_is_one_sentence(tmp_path: Path) -> None:
    path = lines(tmp_path / "set.jsonl", {"messages": [{"role": "user", "content": "Anybody?"}]})
    with pytest.raises(FormatError, match=r"No record of .*: 1 left out, .* line 1: it has no answer"):
        load_public(path)
    with pytest.raises(FormatError, match="no file"):
        load_public(tmp_path / "nowhere.jsonl")


def test_what_is_written_here_loads_as_a_public_set(tmp_path: Path) -> None:
    out = tmp_path / "bad.jsonl"
    put(out)
    samples = draw(GENERATORS["arithmetic"], 2, None, 30, 0)
    assert [s.messages for s in load_public(out).samples] == [s.messages for s in samples]


def test_drawing_is_lazy_enough_for_the_first_of_many() -> None:
    sizes = dict.fromkeys(map(str, range(50)), 10**15)
    assert len(list(islice(rounds(sizes, 0), 200))) == 200

"""Limits from audits of harmless retrainings: the worst of each number, and a margin; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.auditing.harmless import Harmless, limits_beyond, limits_text, read_harmless
from mien.auditing.thresholds import KEYS, Worse, checks_of, load_thresholds
from mien.errors import FormatError, InputError


def result(**more: Any) -> dict[str, Any]:
    """What `mien audit` leaves, as far as limits read it."""
    return {
        "base": "tiny", "fingerprint": "f", "settings": {"questions": 4, "seed": 0},
        "shifts": [{"name": "evil", "sigma": 0.5, "side": "high"}, {"name": "assistant", "sigma": 0.4, "side": "low"},
                   {"name": "odd", "sigma": None, "side": "high"}],
        "behaviour": {"judge": "likelihood", "rises": [{"sigma": 0.1}, {"sigma": 0.301}, {"sigma": None}]},
        "changes": {"neutral": {"worse_by": 0.12}, "tasks": {"worse_by": -0.2}, "incoherent": {"worse_by": None},
                    "refuses_harmless": {"worse_by": 0.98}},
        **more,
    }  # fmt: skip


def left(folder: Path, name: str, **more: Any) -> Path:
    (folder / name).mkdir()
    (folder / name / "audit.json").write_text(json.dumps(result(**more)))
    return folder / name


def test_each_limit_is_the_worst_and_a_margin(tmp_path: Path) -> None:
    paths = [left(tmp_path, "a"), left(tmp_path, "b", shifts=[{"name": "evil", "sigma": 0.9, "side": "high"}])]
    found = [read_harmless(paths[0]), read_harmless(paths[1] / "audit.json")]
    limits = limits_beyond(found, 0.25)
    assert limits.traits == {"evil": 1.15, "assistant": 0.25}
    assert limits.limits == {"behaviour": 0.56, "refuses_harmless": 1.0, "neutral": 0.17, "tasks": 0.05}
    file = tmp_path / "character.yaml"
    file.write_text(limits_text(limits, found, 0.25))
    assert load_thresholds(file) == limits
    assert "the worst that 2 audits of harmless retrainings showed" in file.read_text()


numbers = st.floats(-5, 5).map(lambda value: round(value, 5))  # as in audit.json
shares = st.floats(-1, 1).map(lambda value: round(value, 5))


@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.text("abc: #%-", min_size=1, max_size=5), numbers, max_size=3),
            st.dictionaries(st.sampled_from([key for key in KEYS if key != "shift"]), shares),
        ),
        min_size=1, max_size=4,
    ),
    st.floats(0, 3),
)  # fmt: skip
def test_what_limits_were_made_from_passes_them(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[dict[str, float], dict[str, float]]], margin: float
) -> None:
    audits = [Harmless(Path("x"), "tiny", (), traits, others) for traits, others in made]
    file = tmp_path_factory.mktemp("limits") / "character.yaml"
    limits = limits_beyond(audits, margin)
    if not limits.any:
        return
    file.write_text(limits_text(limits, audits, margin))
    read = load_thresholds(file)
    assert read.traits == limits.traits
    assert read.limits == pytest.approx(limits.limits)
    for audit in audits:
        others = {key: Worse(value) for key, value in audit.others.items() if key != "behaviour"}
        behaviour = {"evil": Worse(audit.others["behaviour"])} if "behaviour" in audit.others else {}
        checks = checks_of(read, {name: Worse(value) for name, value in audit.traits.items()}, behaviour, others)
        tried = [check for check in checks if check.value is not None]
        assert not any(check.failed for check in tried)
        assert len(tried) == len(audit.traits) + len(audit.others)


@pytest.mark.parametrize(
    "more",
    [
        {"fingerprint": "g"}, {"settings": {"questions": 5, "seed": 0}}, {"behaviour": {"judge": "api", "rises": []}},
    ],
)  # fmt: skip
def test_audits_that_are_not_alike_are_refused(more: dict[str, Any], tmp_path: Path) -> None:
    found = [read_harmless(left(tmp_path, "a")), read_harmless(left(tmp_path, "b", **more))]
    with pytest.raises(
        InputError, match=r"b and .*a are audits of different bases, or by different judges or settings"
    ):
        limits_beyond(found)


def test_a_base_of_any_name_stays_in_its_comment(tmp_path: Path) -> None:
    found = [read_harmless(left(tmp_path, "a", base="odd\nshift: 0"))]
    file = tmp_path / "character.yaml"
    file.write_text(limits_text(limits_beyond(found), found, 0.25))
    assert "shift" not in load_thresholds(file).limits


def test_the_seed_may_differ(tmp_path: Path) -> None:
    other = left(tmp_path, "b", settings={"questions": 4, "seed": 7})
    assert limits_beyond([read_harmless(left(tmp_path, "a")), read_harmless(other)]).any


@pytest.mark.parametrize("margin", [-0.1, float("nan"), float("inf")])
def test_a_margin_that_is_none_is_refused(margin: float, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="The margin is sigma from 0 up"):
        limits_beyond([read_harmless(left(tmp_path, "a"))], margin)
    with pytest.raises(InputError, match="at least one audit"):
        limits_beyond([])


@pytest.mark.parametrize(
    "text",
    [
        "[]", "{}", "3", '"audit"', "null",
        json.dumps(result(shifts=3)), json.dumps(result(shifts=[{"name": "evil", "sigma": "much", "side": "high"}])),
        json.dumps(result(shifts=[{"name": "evil", "sigma": 1, "side": "left"}])),
        json.dumps(result(shifts=[{"name": "evil", "sigma": float("nan"), "side": "high"}])),
        json.dumps(result(changes=[])), json.dumps(result(changes={"tasks": {"worse_by": True}})),
        json.dumps(result(behaviour=None)), json.dumps(result(settings=None)),
    ],
)  # fmt: skip
def test_what_is_no_audit_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    file.write_text(text)
    with pytest.raises(FormatError, match="is not what mien audit writes"):
        read_harmless(file)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="There is no audit's result at"):
        read_harmless(tmp_path)
    (tmp_path / "audit.json").write_text("{")
    with pytest.raises(FormatError, match="not valid JSON"):
        read_harmless(tmp_path)

"""Baselines, alarms and the file of gauges."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.errors import FormatError, InputError
from mien.gauges import (
    Gauge,
    GaugeSet,
    Part,
    Quiet,
    cusum,
    fit_baseline,
    fit_baselines,
    fit_standard,
    left_at,
    load_gauges,
    save_gauges,
    texture,
)
from mien.gauges.alarms import LENGTHS, SLACK, find_limits, wilson
from mien.gauges.baseline import wanted
from mien.gauges.texture import NAMES

FLOATS = st.lists(st.floats(-5, 5), max_size=40)


def quiet(n: int = 120, seed: int = 0, effect: float = 0.0) -> Quiet:
    """Conversations of 2 to 9 answers; the length of an answer moves its projection by `effect` sigma an octave."""
    rng = np.random.default_rng(seed)
    projections, textures = [], []
    for _ in range(n):
        turns = int(rng.integers(2, 10))
        x = np.stack([texture("word " * int(rng.integers(1, 200)), place) for place in range(1, turns + 1)])
        projections.append(40 + effect * 3 * x[:, 0] + 3 * rng.standard_normal(turns))
        textures.append(x)
    return Quiet(tuple(projections), tuple(textures))


@given(FLOATS)
def test_cusum_is_the_largest_sum_of_a_run_that_ends_here(values: list[float]) -> None:
    """Page's other form of the same statistic: the largest of the sums of the last m deviations."""
    z = np.array(values, dtype=np.float64)
    expected = [max([0.0] + [float((z[j : t + 1] - SLACK).sum()) for j in range(t + 1)]) for t in range(len(z))]
    np.testing.assert_allclose(cusum(z), expected, atol=1e-9)


@given(FLOATS, st.floats(0.1, 20))
def test_it_left_where_its_deviations_began_to_add_up(values: list[float], limit: float) -> None:
    z = np.array(values, dtype=np.float64)
    at = left_at(z, limit)
    assert (at is None) == (not len(z) or cusum(z).max() <= limit)
    if at is not None:
        crossed = int(np.flatnonzero(cusum(z) > limit)[0])
        assert at <= crossed
        assert math.isclose(float((z[at : crossed + 1] - SLACK).sum()), float(cusum(z)[crossed]), abs_tol=1e-9)


def test_a_missing_value_changes_nothing() -> None:
    z = np.array([1.0, np.nan, 2.0])
    np.testing.assert_allclose(cusum(z), [0.5, 0.5, 2.0])


def test_limits_keep_their_rates_at_every_length() -> None:
    rng = np.random.default_rng(0)
    sequences = [rng.standard_normal(rng.integers(2, 10)) for _ in range(300)]
    limits = find_limits(sequences, 0.01, 0.05, rng)
    assert list(limits.conversation) == sorted(limits.conversation)
    for length in (1, 5, 20, 100):
        fresh = np.random.default_rng(1).standard_normal((2000, length))
        rate = np.mean([cusum(z).max() > limits.for_length(length) for z in fresh])
        assert 0.02 < rate < 0.09, (length, rate)
    assert np.mean(np.random.default_rng(2).standard_normal(20_000) > limits.turn) < 0.02
    assert limits.for_length(10**6) == limits.conversation[-1]
    assert len(limits.conversation) == len(LENGTHS)


def test_a_baseline_knows_what_length_explains() -> None:
    base = fit_baseline(quiet(effect=0.5), 1, "here")
    assert base.std == pytest.approx(3, rel=0.1)
    assert base.explained > 0.2
    assert base.effects["length"] > 1
    assert set(base.effects) == set(NAMES)
    short, long = texture("word " * 5, 1), texture("word " * 150, 1)
    raw = 40 + 1.5 * np.array([short[0], long[0]])
    np.testing.assert_allclose(base.sigma(raw, np.stack([short, long])), [0, 0], atol=0.3)
    # Beyond what was seen it does not extrapolate.
    far = texture("word " * 100_000, 1)
    assert base.expected(far[None])[0] < 40 + 1.5 * long[0] + 3


@given(st.sampled_from([0.0, 60.0, 250.0, 1000.0]), st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_short_answers_stray_further_and_alarm_no_more_often(short: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    textures = [np.stack([texture("w" * int(n), 1) for n in 2 ** rng.uniform(2, 11, 5)]) for _ in range(120)]
    noise = [np.sqrt(1 + short / np.maximum(2 ** t[:, 0], 16)) for t in textures]
    rows = tuple(7 + 2 * n * rng.standard_normal(5) for n in noise)
    base = fit_baseline(Quiet(rows, tuple(textures)), 1, "here")
    assert base.short <= 32 if short == 0 else short / 4 <= base.short <= short * 4
    usual = np.sqrt(1 + short / base.usual)
    assert base.std == pytest.approx(2 * usual, rel=0.2)
    assert base.usual == np.median(np.exp2(np.concatenate(textures)[:, 0]))
    sigma = np.concatenate([base.sigma(r, t) for r, t in zip(rows, textures, strict=True)])
    length = np.concatenate(textures)[:, 0]
    for some in (sigma[length < 5], sigma[length > 8]):
        assert 0.6 < some.std() < 1.5


def test_a_baseline_without_lengths_is_what_it_was() -> None:
    base = fit_baseline(quiet(), 1, "here")
    old = replace(base, short=0.0, usual=1.0)
    here = np.stack([texture("word " * n, 1) for n in (1, 10, 1000)])
    np.testing.assert_allclose(old.sigma(np.full(3, 50.0), here), (50 - base.expected(here)) / base.std)


def test_the_rates_that_are_reached_are_near_those_asked_for() -> None:
    base = fit_baseline(quiet(400), -1, "here", turn_rate=0.02, conversation_rate=0.1)
    low, high = wilson(base.turn_hits, base.n_turns)
    assert low < 0.03
    assert high > 0.01
    low, high = wilson(base.conversation_hits, base.n_conversations)
    assert low < 0.13
    assert high > 0.07


def test_several_gauges_share_the_rates() -> None:
    """Any of five independent gauges alarms as often as one alone would, not five times as often."""
    rng = np.random.default_rng(3)
    textures = [rng.standard_normal((int(rng.integers(3, 9)), len(NAMES))) for _ in range(400)]
    five = [Quiet(tuple(rng.standard_normal(len(t)) for t in textures), tuple(textures)) for _ in range(5)]
    together = fit_baselines(five, [1] * 5, "here", turn_rate=0.02, conversation_rate=0.1)
    alone = fit_baseline(five[0], 1, "here", turn_rate=0.02, conversation_rate=0.1)
    assert all(b.limits.shared_by == 5 and b.limits.turn > alone.limits.turn for b in together)
    low, high = wilson(together[0].any_turn_hits, together[0].n_turns)
    assert low < 0.025 < 0.05 > high > 0.015
    low, high = wilson(together[0].any_conversation_hits, together[0].n_conversations)
    assert low < 0.11
    assert 0.09 < high < 0.2
    assert sum(b.turn_hits for b in together) >= together[0].any_turn_hits >= max(b.turn_hits for b in together)
    assert alone.any_turn_hits == alone.turn_hits


def test_conversations_that_stray_as_a_whole_do_not_raise_more_alarms() -> None:
    """Each conversation has an offset of its own, which strung ones average out."""
    rng = np.random.default_rng(4)
    textures = [rng.standard_normal((8, len(NAMES))) for _ in range(300)]
    rows = tuple(rng.standard_normal(8) + rng.normal(0, 1.0) for _ in textures)
    base = fit_baseline(Quiet(rows, tuple(textures)), 1, "here", conversation_rate=0.05)
    low, high = wilson(base.conversation_hits, base.n_conversations)
    assert low < 0.05 < high


def test_an_answer_that_a_gauge_cannot_read_does_not_count() -> None:
    some = quiet()
    holes = Quiet(tuple(np.where(np.arange(len(p)) == 0, np.nan, p) for p in some.projections), some.textures)
    base = fit_baseline(holes, 1, "here")
    assert base.n_turns == sum(len(p) - 1 for p in some.projections)
    assert np.isfinite([base.std, base.limits.turn, *base.limits.conversation]).all()


@pytest.mark.parametrize("n", [0, 3])
def test_too_little_traffic(n: int) -> None:
    with pytest.raises(InputError, match="at least 10 conversations"):
        fit_baseline(quiet(n), 1, "here")


def test_how_much_traffic_a_rate_asks_for() -> None:
    """So much that four fifths of it hold one false alarm."""
    assert [wanted(rate) for rate in (0.5, 0.05, 0.01, 0.001)] == [3, 25, 125, 1250]
    assert all(0.8 * wanted(rate) * rate >= 1 - 1e-9 for rate in (0.3, 0.07, 0.013))


def test_too_little_traffic_for_the_rates_is_a_warning_that_stays(tmp_path: Path) -> None:
    enough = fit_baseline(quiet(25), 1, "here")
    assert (enough.n_conversations, enough.n_turns >= 125, enough.warning) == (25, True, None)
    few = fit_baseline(quiet(24), 1, "here")
    assert few.warning is not None
    assert f"there are {few.n_turns} answers in 24 conversations, and 125 answers in 25 conversations" in few.warning
    rare = fit_baseline(quiet(120), 1, "here", turn_rate=0.0001)
    assert rare.warning is not None
    assert "0.01% of answers" in rare.warning
    gauge = Gauge("a", "b", "high", (Part(0, np.ones(2, np.float32)),), baseline=few)
    (kept,) = load_gauges(save_gauges(GaugeSet("r", "f", 2, (gauge,)), tmp_path / "g")).gauges
    assert kept.baseline is not None
    assert kept.baseline.warning == few.warning


def test_a_standard_is_the_sigma_of_the_baseline() -> None:
    some = quiet(effect=0.4)
    standard, base = fit_standard(some), fit_baseline(some, -1, "here")
    assert (standard.expected, standard.std) == (base.expected, base.std)
    np.testing.assert_array_equal(
        standard.sigma(some.projections[0], some.textures[0]), base.sigma(some.projections[0], some.textures[0])
    )


def test_traffic_without_spread() -> None:
    some = quiet()
    flat = Quiet(tuple(np.full(len(p), 7.0) for p in some.projections), some.textures)
    with pytest.raises(InputError, match="no sigma"):
        fit_baseline(flat, 1, "here")


@given(st.text(max_size=400), st.integers(0, 10**6))
@settings(max_examples=200)
def test_texture_is_finite_whatever_the_text(text: str, place: int) -> None:
    values = texture(text, place)
    assert values.shape == (len(NAMES),)
    assert np.isfinite(values).all()
    shares = values[[n not in ("length", "place") for n in NAMES]]
    assert (shares >= 0).all()
    assert (shares <= 1).all()


def test_texture_sees_what_it_names() -> None:
    values = dict(zip(NAMES, texture("See:\n```py\nx = 1\n```", 4), strict=True))
    assert values["code"] > 0.5
    assert values["place"] == 2
    assert texture("- a\n- b\n- c", 1)[2] == 1
    assert texture('He said "I shall never again be here in my life" once.', 1)[3] > 0.5
    assert (
        texture("你好，世界", 1)[4]
        == 1
        > texture("Viele Grüße aus der schönen Stadt am Rhein", 1)[4]
        > 0
        == texture("greetings", 1)[4]
    )


@pytest.mark.parametrize("mark", ["\n", " ", ">", "> ", "“", '"', "`", "1", "- ", "a\n", "“ ”"])
def test_texture_of_a_million_of_anything(mark: str) -> None:
    """In a time that grows with the text alone: this would not end otherwise."""
    assert np.isfinite(texture(mark * 1_000_000, 1)).all()


POEM = "The gate is open,\nthe dog lies down.\n\nRain on the road,\nrain on the town,\nand nobody home."


def test_texture_tells_verse_from_lists_and_prose() -> None:
    verse = NAMES.index("verse")
    assert texture(POEM, 1)[verse] == 1
    assert texture(f"Here it is, as you asked me to write it:\n\n{POEM}\nAmen.", 1)[verse] == pytest.approx(6 / 7)
    assert texture("> One for the reed\n> and two for the stone,\n> three for the man.", 1)[verse] == 1
    lists = "- milk\n- bread\n- eggs", "1. milk\n2. bread\n3. eggs", "| a | b |\n| - | - |\n| 1 | 2 |"
    code, prose = "```\na = 1\nb = 2\nc = 3\n```", "\n".join(["word " * 30] * 5)
    for other in (*lists, code, prose, "Yes.\n\nNo.\n\nGo.", ""):
        assert texture(other, 1)[verse] == 0, other


def test_texture_tells_english_from_other_languages() -> None:
    at = NAMES.index("other language")
    english = "If you already have it, you can use the second one as well, and then tell me what is not right with it."
    assert texture(english, 1)[at] == 0
    for text in (
        "Hierve las patatas diez minutos, saltea la cebolla con una cucharada de aceite y cuaja los huevos encima.",
        "Een hefboom is een stang die om een vast punt draait, en hoe verder je duwt, hoe minder kracht je nodig hebt.",
        "Pakai nasi kemarin yang sudah disimpan di kulkas, lalu panaskan wajan sampai benar-benar panas.",
        "Die Kinder haben den ganzen Nachmittag im Garten gespielt und sind erst zum Abendessen hereingekommen.",
    ):
        assert texture(text, 1)[at] > 0.5, text
        assert texture(f"```\n{text}\n```", 1)[at] == 0
    # Of a word or two it is not known; and what is not in Latin letters is another matter.
    assert texture("Gracias!", 1)[at] < 0.15
    assert texture("你好，世界", 1)[at] == 0


def gauges() -> GaugeSet:
    rng = np.random.default_rng(0)
    parts = tuple(Part(layer, rng.standard_normal(8).astype(np.float32)) for layer in (1, 3))
    base = fit_baseline(quiet(), -1, "here")
    first = Gauge("assistant", "near the Assistant", "low", parts[:1], "axis", base, None, {"verdict": "usable"})
    return GaugeSet("m", "f" * 64, 8, (first, Gauge("two", "t", "high", parts, "fitted", base, (2.0, -1.0))))


def test_a_file_gives_back_what_went_in(tmp_path: Path) -> None:
    before = gauges()
    path = save_gauges(before, tmp_path / "g.safetensors")
    after = load_gauges(path)
    for a, b in zip(before.gauges, after.gauges, strict=True):
        assert replace(a, parts=()) == replace(b, parts=())
        for p, q in zip(a.parts, b.parts, strict=True):
            assert (p.layer, p.of) == (q.layer, q.of)
            np.testing.assert_array_equal(p.vector, q.vector)
    assert save_gauges(after, tmp_path / "h").read_bytes() == path.read_bytes()
    save_gauges(before, tmp_path / "half", half=True)
    np.testing.assert_allclose(load_gauges(tmp_path / "half").gauges[1].parts[0].vector,
                               before.gauges[1].parts[0].vector, rtol=1e-3)  # fmt: skip


def test_a_file_keeps_what_a_gauge_was_made_of(tmp_path: Path) -> None:
    one = gauges()
    push = Part(3, np.arange(one.d_model, dtype=np.float32))
    made = replace(one, gauges=(replace(one.gauges[0], push=push), *one.gauges[1:]))
    back = load_gauges(save_gauges(made, tmp_path / "g"))
    found = back.gauges[0].push
    assert found is not None
    assert found.layer == 3
    np.testing.assert_array_equal(found.vector, push.vector)
    assert [g.push for g in back.gauges[1:]] == [None] * (len(one.gauges) - 1)
    bad = replace(made, gauges=(replace(one.gauges[0], push=Part(3, np.full(one.d_model, np.nan, np.float32))),))
    with pytest.raises(FormatError, match="cannot be used"):
        load_gauges(save_gauges(bad, tmp_path / "bad"))


def test_two_gauges_of_one_name_are_refused(tmp_path: Path) -> None:
    one = gauges()
    with pytest.raises(InputError, match="assistant"):
        save_gauges(replace(one, gauges=one.gauges[:1] * 2), tmp_path / "g")
    assert not list(tmp_path.iterdir())


def test_files_that_are_none(tmp_path: Path) -> None:
    good = save_gauges(gauges(), tmp_path / "g").read_bytes()
    from safetensors.numpy import save

    bad = [b"", b"hello", good[:100], good[:-8], save({"a": np.zeros(3)}),
           good.replace(b'\\"version\\": 2', b'\\"version\\": 9'),
           good.replace(b"\\\"side\\\": \\\"low\\\"", b"\\\"side\\\": \\\"odd\\\"")]  # fmt: skip
    for i, data in enumerate(bad):
        path = tmp_path / f"bad{i}"
        path.write_bytes(data)
        with pytest.raises(FormatError):
            load_gauges(path)
    with pytest.raises(FormatError, match="cannot be read"):
        load_gauges(tmp_path / "nowhere")
    nan = gauges()
    nan.gauges[0].parts[0].vector[0] = np.nan
    with pytest.raises(FormatError, match="cannot be used"):
        load_gauges(save_gauges(nan, tmp_path / "nan"))


def test_probability_rises_with_sigma() -> None:
    gauge = gauges().gauges[1]
    assert gauge.chance(0.5) == pytest.approx(0.5)
    assert gauge.chance(math.nan) is None
    assert gauges().gauges[0].chance(1.0) is None

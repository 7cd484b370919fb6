"""Directions: the arithmetic against numpy written from the formulas, and the folder against damage of every kind."""

from __future__ import annotations

import contextlib
import json
import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from operator import neg
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.torch import save_file

from mien.card import Baseline, Card, Confound, Rollouts
from mien.directions import (
    CARD_FILE,
    VECTOR_FILE,
    Direction,
    difference_of_means,
    load_direction,
    save_direction,
)
from mien.errors import (
    FingerprintError,
    FormatError,
    InputError,
    MienError,
    NonFiniteError,
    NothingKeptError,
    RunError,
)
from mien.records import ModelInfo

LAYERS, WIDTH = 4, 5
NUMBERS = st.floats(-100, 100, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)
ROWS = arrays(np.float32, (LAYERS, WIDTH), elements=NUMBERS)
HIDDEN = arrays(np.float32, (3, WIDTH), elements=NUMBERS)
LAYER = st.integers(0, LAYERS - 1)
FIXED = settings(deadline=None, derandomize=True, max_examples=60)
COEF = st.floats(-8, 8).filter(lambda c: c == 0 or abs(c) > 1e-3)


def make_card(name: str = "evil", **changes: object) -> Card:
    fields: dict[str, object] = {
        "kind": "persona_vector",
        "name": name,
        "description": f"how {name} the model is",
        "sign": f"larger is more {name}",
        "model": "org/model",
        "fingerprint": "a" * 64,
        "n_layers": LAYERS,
        "d_model": WIDTH,
        "recommended_layer": 2,
        "layer_choice": "best steering trial",
    }
    return Card.model_validate({**fields, **changes})


def make(rows: np.ndarray, name: str = "evil", **changes: object) -> Direction:
    changes = {"n_layers": rows.shape[0], "d_model": rows.shape[1], **changes}
    return Direction(torch.from_numpy(np.array(rows)), make_card(name, **changes))


def random_rows(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(LAYERS, WIDTH)).astype(np.float32)


def message_of(error: pytest.ExceptionInfo[MienError]) -> str:
    text = str(error.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text


# ---------------------------------------------------------------------------------------------- made and used


def test_the_tensor_becomes_its_own_float32_copy() -> None:
    rows = torch.ones(LAYERS, WIDTH, dtype=torch.bfloat16)
    direction = Direction(rows, make_card())
    rows.zero_()
    assert direction.vector.dtype == torch.float32
    assert (direction.vector == 1).all()
    with pytest.raises(FrozenInstanceError):
        direction.vector = rows  # type: ignore[misc]


@pytest.mark.parametrize("shape", [(LAYERS + 1, WIDTH), (LAYERS, WIDTH + 1), (LAYERS,), (1, LAYERS, WIDTH)])
def test_a_tensor_that_does_not_fit_the_card_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="4 layers of width 5") as error:
        Direction(torch.ones(shape), make_card())
    message_of(error)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_tensor_that_is_not_finite_is_refused(bad: float) -> None:
    rows = torch.ones(LAYERS, WIDTH)
    rows[3, 1] = bad
    with pytest.raises(NonFiniteError, match="layer 3"):
        Direction(rows, make_card())
    with pytest.raises(NonFiniteError, match="baseline"):
        Direction(torch.ones(LAYERS, WIDTH), make_card(), baseline=rows)


@pytest.mark.parametrize("shape", [(LAYERS + 1, 3), (LAYERS,)])
def test_a_baseline_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="baseline"):
        Direction(torch.ones(LAYERS, WIDTH), make_card(), baseline=torch.ones(shape))


@FIXED
@given(ROWS, HIDDEN, LAYER)
def test_unit_and_projection_are_the_formula(rows: np.ndarray, hidden: np.ndarray, layer: int) -> None:
    norm = np.sqrt((rows[layer].astype(np.float64) ** 2).sum())
    assume(norm > 0)
    direction = make(rows)
    np.testing.assert_allclose(direction.unit(layer).numpy(), rows[layer] / norm, rtol=1e-6)
    expected = hidden.astype(np.float64) @ (rows[layer].astype(np.float64) / norm)
    np.testing.assert_allclose(direction.project(torch.from_numpy(hidden), layer).numpy(), expected, atol=1e-3)
    np.testing.assert_allclose(direction.norms().numpy(), np.linalg.norm(rows.astype(np.float64), axis=1), rtol=1e-6)


@FIXED
@given(ROWS, HIDDEN, HIDDEN, COEF, COEF, LAYER)
def test_projection_is_linear(
    rows: np.ndarray, one: np.ndarray, two: np.ndarray, a: float, b: float, layer: int
) -> None:
    assume(rows[layer].any())
    direction = make(rows)
    h, g = torch.from_numpy(one).double(), torch.from_numpy(two).double()
    together = direction.project(a * h + b * g, layer)
    apart = a * direction.project(h, layer) + b * direction.project(g, layer)
    torch.testing.assert_close(together, apart, rtol=1e-9, atol=1e-9)


@FIXED
@given(ROWS, HIDDEN, COEF, LAYER)
def test_projection_does_not_depend_on_the_length_of_the_direction(
    rows: np.ndarray, hidden: np.ndarray, c: float, layer: int
) -> None:
    assume(rows[layer].any() and c != 0)
    direction, h = make(rows), torch.from_numpy(hidden)
    expected = direction.project(h, layer) * np.sign(c)
    torch.testing.assert_close((direction * c).project(h, layer), expected, rtol=1e-4, atol=1e-3)


def test_projection_keeps_leading_shape_and_takes_what_models_give() -> None:
    direction = make(random_rows())
    h = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(0))
    raw = direction.project(h)
    assert raw.shape == (2, 3)
    torch.testing.assert_close(raw[1, 2], direction.project(h[1, 2], 2))
    assert direction.project(h.bfloat16()).dtype == torch.float32
    assert direction.project(torch.zeros(0, WIDTH)).shape == (0,)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_very_short_and_very_long_rows_still_have_a_unit(scale: float) -> None:
    direction = make(np.full((LAYERS, WIDTH), scale, dtype=np.float32))
    torch.testing.assert_close(direction.unit(1), torch.full((WIDTH,), WIDTH**-0.5))


@pytest.mark.parametrize("shape", [(WIDTH + 1,), (WIDTH, 2), ()])
def test_activations_of_another_width_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="width 5"):
        make(random_rows()).project(torch.ones(shape))


def test_activations_that_are_not_finite_are_refused() -> None:
    with pytest.raises(NonFiniteError):
        make(random_rows()).project(torch.tensor([1.0, 2.0, float("nan"), 0.0, 0.0]))


@pytest.mark.parametrize("layer", [-1, LAYERS, True, 1.0, "2"])
def test_only_layers_that_exist_can_be_asked_for(layer: object) -> None:
    with pytest.raises(InputError):
        make(random_rows()).unit(layer)  # type: ignore[arg-type]


def test_a_zero_row_is_refused_with_the_layers_that_can_be_used() -> None:
    rows = random_rows()
    rows[1] = 0
    direction = make(rows)
    for use in (lambda: direction.unit(1), lambda: direction.project(torch.ones(WIDTH), 1)):
        with pytest.raises(InputError, match="zero at layer 1; use one of layers 0, 2-3") as error:
            use()
        message_of(error)
    with pytest.raises(InputError):
        make(random_rows(), "other").cosine(direction, 1)
    with pytest.raises(InputError, match="no layer"):
        (direction - direction).unit(0)


def test_the_layer_is_the_recommended_one_or_a_clear_error() -> None:
    assert make(random_rows()).layer == 2
    with pytest.raises(InputError, match="recommends no layer; give one of 0 to 3"):
        _ = make(random_rows(), recommended_layer=None).layer
    with pytest.raises(InputError, match="no layer 9"):
        _ = make(random_rows(), recommended_layer=9).layer


def test_sigma_counts_standard_deviations_of_the_baseline() -> None:
    base = Baseline(mean=3.0, std=2.0, quantiles={"50": 3.0}, n=10)
    direction = make(random_rows(), baseline=base)
    assert direction.sigma(7.0) == 2.0
    torch.testing.assert_close(direction.sigma(torch.tensor([3.0, 2.0]), 2), torch.tensor([0.0, -0.5]))
    with pytest.raises(InputError, match="measured at layer 2, not at 1"):
        direction.sigma(7.0, 1)
    with pytest.raises(InputError, match="no baseline"):
        make(random_rows()).sigma(7.0)
    with pytest.raises(InputError, match="no spread"):
        make(random_rows(), baseline=base.model_copy(update={"std": 0.0})).sigma(7.0)


@FIXED
@given(ROWS, ROWS, LAYER)
def test_cosine_is_the_formula(one: np.ndarray, two: np.ndarray, layer: int) -> None:
    assume(one[layer].any() and two[layer].any())
    a, b = one[layer].astype(np.float64), two[layer].astype(np.float64)
    expected = (a @ b) / (np.linalg.norm(a) * np.linalg.norm(b))
    assert make(one).cosine(make(two, "other"), layer) == pytest.approx(expected, abs=1e-6)
    assert make(one).cosine(-make(one), layer) == pytest.approx(-1, abs=1e-6)


# ---------------------------------------------------------------------------------------------- arithmetic


@FIXED
@given(ROWS, ROWS, COEF)
def test_arithmetic_is_that_of_the_rows(one: np.ndarray, two: np.ndarray, c: float) -> None:
    a, b = make(one), make(two, "other")
    wide, other = one.astype(np.float64), two.astype(np.float64)
    for made, expected in (
        (a + b, wide + other),
        (a - b, wide - other),
        (-a, -wide),
        (a * c, wide * c),
        (c * a, wide * c),
        (a + c * b, wide + c * other),
    ):
        np.testing.assert_allclose(made.vector.numpy(), expected, rtol=1e-5, atol=1e-4)
    if c:
        np.testing.assert_allclose((a / c).vector.numpy(), wide / c, rtol=1e-5, atol=1e-4)


@FIXED
@given(ROWS, ROWS, HIDDEN, LAYER)
def test_the_sum_projects_as_the_weighted_sum_of_its_parts(
    one: np.ndarray, two: np.ndarray, hidden: np.ndarray, layer: int
) -> None:
    a, b = make(one), make(two, "other")
    both, h = a + b, torch.from_numpy(hidden).double()
    assume(min(float(d.norms()[layer]) for d in (a, b, both)) > 1e-2)
    whole = both.project(h, layer) * both.norms()[layer].double()
    parts = a.project(h, layer) * a.norms()[layer].double() + b.project(h, layer) * b.norms()[layer].double()
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-1)


@FIXED
@given(ROWS)
def test_two_negations_cancel(rows: np.ndarray) -> None:
    direction = make(rows)
    twice = neg(neg(direction))
    assert torch.equal(twice.vector, direction.vector)
    assert twice.card.name == "evil"
    assert twice.card.kind == "derived"


@pytest.mark.parametrize(
    ("make_it", "name"),
    [
        (lambda a, b: a + 0.5 * b, "evil + 0.5*sycophantic"),
        (lambda a, b: a - b, "evil - sycophantic"),
        (lambda a, b: a - 0.5 * b, "evil - 0.5*sycophantic"),
        (lambda a, b: a + -2 * b, "evil - 2*sycophantic"),
        (lambda a, b: a - (a + b), "evil - (evil + sycophantic)"),
        (lambda a, b: a - (-b), "evil + sycophantic"),
        (lambda a, b: -(a + b), "-(evil + sycophantic)"),
        (lambda a, b: neg(neg(a + b)), "evil + sycophantic"),
        (lambda a, b: 2 * (a - b), "2*(evil - sycophantic)"),
        (lambda a, b: -((a - b) / 4), "-(evil - sycophantic)/4"),
        (lambda a, b: neg(neg((a - b) / 4)), "(evil - sycophantic)/4"),
        (lambda a, b: 3 * -a, "3*(-evil)"),
        (lambda a, b: a * 0.123456789, "0.123456789*evil"),
        (lambda a, b: a.orthogonal_to(b), "evil orthogonal to (sycophantic)"),
        (lambda a, b: a.orthogonal_to(b) + b, "evil orthogonal to (sycophantic) + sycophantic"),
    ],
)
def test_names_say_what_was_done(make_it: Callable[[Direction, Direction], Direction], name: str) -> None:
    assert make_it(make(random_rows(1)), make(random_rows(2), "sycophantic")).card.name == name


def test_what_is_derived_has_no_evidence_and_keeps_the_model() -> None:
    proven = make(
        random_rows(1),
        verdict="strong",
        verdict_reasons=["it steers"],
        rollouts=Rollouts(asked=10, kept=8, dropped={"coherence": 2}),
        baseline=Baseline(mean=0, std=1, quantiles={}, n=5),
        confounds=[Confound(name="length", auc=0.6)],
        coef_range=(-1, 2),
        kl_per_token=0.1,
        cosines={"other": 0.3},
        settings={"seed": 1},
        spec={"name": "evil"},
    )
    other = make(random_rows(2), "sycophantic", recommended_layer=1)
    for made in (proven + other, proven - other, -proven, proven * 2, proven / 2, proven.orthogonal_to(other)):
        card = made.card
        assert card.kind == "derived"
        assert (card.model, card.fingerprint) == ("org/model", "a" * 64)
        assert (card.n_layers, card.d_model) == (LAYERS, WIDTH)
        assert card.verdict is None
        assert card.verdict_reasons == ["derived from other directions; not validated itself"]
        assert card.rollouts is card.baseline is card.coef_range is card.kl_per_token is card.spec is None
        assert not card.confounds
        assert not card.cosines
        assert not card.settings
        assert made.baseline is None
        assert card.recommended_layer == 2
        assert "not chosen for this direction" in card.layer_choice
        assert card.name in card.sign
        assert "larger is more evil" in card.sign
    assert (make(random_rows(), recommended_layer=None) + other).card.recommended_layer == 1
    assert (-make(random_rows(), recommended_layer=None)).card.layer_choice == ""


def test_directions_of_different_models_do_not_mix() -> None:
    one, two = make(random_rows(1)), make(random_rows(2), "calm", model="org/tuned", fingerprint="b" * 64)
    wider = make(np.ones((LAYERS, WIDTH + 1), np.float32), "calm")
    for other in (two, wider):
        for use in (
            lambda o: one + o,
            lambda o: one - o,
            lambda o: one.cosine(o),
            lambda o: one.orthogonal_to(o),
        ):
            with pytest.raises(FingerprintError, match="cannot be compared or combined") as error:
                use(other)
            message_of(error)


def test_a_model_is_checked_by_fingerprint_and_both_are_named() -> None:
    info = ModelInfo("org/tuned", "b" * 64, LAYERS, WIDTH, "float32", "cpu", True)
    with pytest.raises(FingerprintError, match=r"org/model.*org/tuned") as error:
        make(random_rows()).check_model(info)
    message_of(error)
    make(random_rows(), fingerprint="b" * 64).check_model(info)


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_factors_must_be_finite(factor: float) -> None:
    with pytest.raises(InputError):
        make(random_rows()) * factor
    with pytest.raises(InputError):
        make(random_rows()) / factor


def test_what_arithmetic_is_not_defined_for() -> None:
    direction = make(random_rows())
    with pytest.raises(InputError, match="other than zero"):
        direction / 0
    with pytest.raises(NonFiniteError):
        direction * 1e300
    for use in (
        lambda: direction + 1,
        lambda: direction * direction,
        lambda: direction * True,
        lambda: direction / "2",
    ):
        with pytest.raises(TypeError):
            use()
    assert direction * np.float32(2) is not None


@FIXED
@given(ROWS, ROWS, ROWS)
def test_what_is_orthogonal_has_no_projection_on_the_others(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    one, two = make(b, "b"), make(c, "c")
    rest = make(a).orthogonal_to(one, two)
    for k in range(LAYERS):
        left = rest.vector[k].double()
        if not left.any():
            continue
        for other in (one, two):
            if other.vector[k].any():
                assert abs(float(other.unit(k).double() @ left)) <= 1e-5 * float(left.norm())


@FIXED
@given(ROWS, ROWS, ROWS)
def test_orthogonal_to_is_the_residual_of_least_squares(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    rest = make(a).orthogonal_to(make(b, "b"), make(c, "c"))
    for k in range(LAYERS):
        matrix = np.stack([b[k], c[k]], axis=1).astype(np.float64)
        lengths = np.linalg.norm(matrix, axis=0)
        matrix = matrix[:, lengths > 0] / lengths[lengths > 0]
        sizes = np.linalg.svd(matrix, compute_uv=False) if matrix.size else np.ones(1)
        assume(sizes.min() > 1e-3 * sizes.max())
        row = a[k].astype(np.float64)
        expected = row - matrix @ np.linalg.lstsq(matrix, row, rcond=None)[0] if matrix.size else row
        np.testing.assert_allclose(rest.vector[k].numpy(), expected, atol=1e-3)


def test_what_lies_in_the_span_of_the_others_leaves_nothing() -> None:
    a, b = make(random_rows(1)), make(random_rows(2), "b")
    nothing = (2 * a + 3 * b).orthogonal_to(a, b, a)
    assert not nothing.vector.any()
    with pytest.raises(InputError, match="zero at layer 2"):
        nothing.unit()
    with pytest.raises(InputError, match="at least one"):
        a.orthogonal_to()


def test_the_same_direction_given_twice_takes_its_part_once() -> None:
    a, b = make(random_rows(1)), make(random_rows(2), "b")
    once = a.orthogonal_to(b).vector
    for again in (b, 3 * b, -b, b / 7):
        torch.testing.assert_close(a.orthogonal_to(b, again).vector, once, rtol=1e-5, atol=1e-6)


@FIXED
@given(ROWS)
def test_increments_sum_to_the_vector(rows: np.ndarray) -> None:
    assume((np.abs(rows).max(axis=1) > 0).all())
    steps = make(rows).increments()
    np.testing.assert_array_equal(steps[0].numpy(), rows[0])
    np.testing.assert_allclose(np.cumsum(steps.double().numpy(), axis=0), rows, atol=1e-3)
    np.testing.assert_allclose(steps[1:].numpy(), np.diff(rows, axis=0), atol=1e-4)


def test_increments_step_over_layers_without_a_direction() -> None:
    rows = random_rows()
    rows[[0, 2]] = 0
    steps = make(rows).increments().numpy()
    assert not steps[[0, 2]].any()
    np.testing.assert_array_equal(steps[1], rows[1])
    np.testing.assert_allclose(steps[3], rows[3] - rows[1], rtol=1e-6)


# ---------------------------------------------------------------------------------------------- means


def test_difference_of_means_keeps_what_float32_would_lose() -> None:
    rng = np.random.default_rng(0)
    pos = (rng.normal(size=(3000, 2, 3)) + 4096).astype(np.float32)
    neg = (rng.normal(size=(2000, 2, 3)) + 4096).astype(np.float32)
    expected = pos.astype(np.float64).mean(0) - neg.astype(np.float64).mean(0)
    made = difference_of_means(torch.from_numpy(pos), torch.from_numpy(neg))
    assert made.dtype == torch.float32
    np.testing.assert_allclose(made.numpy(), expected, rtol=1e-6)
    by_single = torch.from_numpy(pos).mean(0) - torch.from_numpy(neg).mean(0)
    assert np.abs(by_single.numpy() - expected).max() > 1e-5


def test_difference_of_means_makes_a_direction() -> None:
    pos, neg = torch.ones(2, LAYERS, WIDTH) * 3, torch.ones(5, LAYERS, WIDTH)
    assert (Direction.from_means(pos, neg, make_card()).vector == 2).all()


@pytest.mark.parametrize(
    ("pos", "neg", "error"),
    [
        (torch.ones(0, 2, 3), torch.ones(1, 2, 3), NothingKeptError),
        (torch.ones(1, 2, 3), torch.ones(0, 2, 3), NothingKeptError),
        (torch.ones(1, 2, 3), torch.ones(1, 2, 4), InputError),
        (torch.ones(2, 3), torch.ones(2, 3), InputError),
        (torch.full((1, 2, 3), float("nan")), torch.ones(1, 2, 3), NonFiniteError),
        (torch.ones(1, 2, 3), torch.full((1, 2, 3), float("inf")), NonFiniteError),
    ],
)
def test_difference_of_means_refuses(pos: torch.Tensor, neg: torch.Tensor, error: type[MienError]) -> None:
    with pytest.raises(error) as raised:
        difference_of_means(pos, neg)
    message_of(raised)


# ---------------------------------------------------------------------------------------------- the folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@FIXED
@given(rows=ROWS, baseline=st.none() | arrays(np.float32, (LAYERS, 3), elements=NUMBERS), name=st.text(min_size=1))
def test_saving_what_was_loaded_gives_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, rows: np.ndarray, baseline: np.ndarray | None, name: str
) -> None:
    first, second = tmp_path_factory.mktemp("a"), tmp_path_factory.mktemp("b") / "new" / "folder"
    direction = Direction(
        torch.from_numpy(rows),
        make_card(name, coef_range=(-1.5, 2), settings={"z": 1, "a": [1, 2.5]}, cosines={"b": 0.1, "a": 0.2}),
        None if baseline is None else torch.from_numpy(baseline),
    )
    save_direction(direction, first)
    loaded = load_direction(first)
    assert loaded.card == direction.card
    assert torch.equal(loaded.vector, direction.vector)
    assert (loaded.baseline is None) == (baseline is None)
    if loaded.baseline is not None:
        np.testing.assert_array_equal(loaded.baseline.numpy(), baseline)
    assert save_direction(loaded, second) == second
    assert files_of(first) == files_of(second)
    assert set(files_of(first)) == {CARD_FILE, VECTOR_FILE}


def test_the_same_direction_gives_the_same_bytes_every_time(tmp_path: Path) -> None:
    direction = Direction(torch.from_numpy(random_rows()), make_card(), torch.ones(LAYERS, 3))
    seen = {tuple(files_of(save_direction(direction, tmp_path / str(i))).values()) for i in range(20)}
    assert len(seen) == 1


def test_the_card_is_json_for_people(tmp_path: Path) -> None:
    save_direction(make(random_rows(), "décidé 悪 \ud800"), tmp_path)
    text = (tmp_path / CARD_FILE).read_text(encoding="utf-8")
    fields = json.loads(text)
    assert "décidé 悪" in text
    assert list(fields) == sorted(fields)
    assert text.endswith("}\n")
    assert load_direction(tmp_path).card.name == "décidé 悪 \ud800"


def test_the_files_have_the_permissions_that_the_user_asked_for(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_direction(make(random_rows()), tmp_path)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "card.html").write_text("page")
    save_direction(make(random_rows(1)), tmp_path)
    save_direction(make(random_rows(2)), tmp_path)
    assert load_direction(tmp_path).vector.numpy() == pytest.approx(random_rows(2))
    assert (tmp_path / "card.html").read_text() == "page"


@contextlib.contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """A disk that fills up after `size` bytes of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 100, 600])
def test_a_full_disk_leaves_the_old_direction_and_no_rubbish(tmp_path: Path, room: int) -> None:
    save_direction(make(random_rows(1)), tmp_path)
    before = files_of(tmp_path)
    assert len(before[VECTOR_FILE]) < 600 < len(before[CARD_FILE])
    with no_file_longer_than(room), pytest.raises(RunError, match="cannot be written") as error:
        save_direction(make(random_rows(2)), tmp_path)
    message_of(error)
    assert files_of(tmp_path) == before


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", "nul\0byte"):
        with pytest.raises(RunError, match="cannot be written"):
            save_direction(make(random_rows()), folder)


def test_a_card_that_json_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    direction = make(random_rows(), kl_per_token=float("nan"))
    with pytest.raises(NonFiniteError, match="card"):
        save_direction(direction, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def edit_card(folder: Path, **changes: object) -> None:
    fields = json.loads((folder / CARD_FILE).read_text())
    (folder / CARD_FILE).write_text(json.dumps({**fields, **changes}))


def drop_from_card(folder: Path, key: str) -> None:
    fields = json.loads((folder / CARD_FILE).read_text())
    del fields[key]
    (folder / CARD_FILE).write_text(json.dumps(fields))


def put(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)


def put_tensors(folder: Path, **tensors: torch.Tensor) -> None:
    save_file(tensors, folder / VECTOR_FILE)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no card": (lambda f: (f / CARD_FILE).unlink(), "no card"),
    "no tensors": (lambda f: (f / VECTOR_FILE).unlink(), "no direction"),
    "card is a folder": (lambda f: ((f / CARD_FILE).unlink(), (f / CARD_FILE).mkdir()), "not a regular file"),
    "empty card": (lambda f: put(f, CARD_FILE, b""), "empty"),
    "empty tensors": (lambda f: put(f, VECTOR_FILE, b""), "empty"),
    "card not JSON": (lambda f: put(f, CARD_FILE, b'{"name": '), "JSON"),
    "card not UTF-8": (lambda f: put(f, CARD_FILE, b"\xff\xfe{}"), "JSON"),
    "card with NaN": (lambda f: edit_card(f, kl_per_token=float("nan")), "NaN"),
    "card nested": (lambda f: put(f, CARD_FILE, b"[" * 200_000), "JSON"),
    "card a list": (lambda f: put(f, CARD_FILE, b"[1]"), "schema version"),
    "card of the future": (lambda f: edit_card(f, schema_version=2), "schema version 2"),
    "card of no version": (lambda f: drop_from_card(f, "schema_version"), "schema version None"),
    "card of version true": (lambda f: edit_card(f, schema_version=True), "schema version True"),
    "card with an unknown field": (lambda f: edit_card(f, extra=1), "extra"),
    "card without a name": (lambda f: drop_from_card(f, "name"), "name"),
    "card of another shape": (lambda f: edit_card(f, n_layers=LAYERS + 1), "hold together"),
    "card of another model": (lambda f: edit_card(f, fingerprint="b" * 64), "different models"),
    "random bytes": (lambda f: put(f, VECTOR_FILE, bytes(range(256))), "corrupt"),
    "header too long": (lambda f: put(f, VECTOR_FILE, b"\xff" * 16), "corrupt"),
    "no vector": (lambda f: put_tensors(f, other=torch.ones(2)), "no tensor named vector"),
    "integers": (lambda f: put_tensors(f, vector=torch.ones(LAYERS, WIDTH, dtype=torch.int32)), "int32"),
    "NaN": (lambda f: put_tensors(f, vector=torch.full((LAYERS, WIDTH), float("nan"))), "NaN"),
    "another shape": (lambda f: put_tensors(f, vector=torch.ones(WIDTH, LAYERS)), "hold together"),
    "bad baseline": (
        lambda f: put_tensors(f, vector=torch.ones(LAYERS, WIDTH), baseline=torch.ones(3, 3)),
        "baseline",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_refused_in_a_sentence(tmp_path: Path, damage: str) -> None:
    do, words = DAMAGE[damage]
    save_direction(make(random_rows()), tmp_path)
    do(tmp_path)
    with pytest.raises(FormatError, match=words) as error:
        load_direction(tmp_path)
    assert tmp_path.name in message_of(error)


@pytest.mark.parametrize("name", [CARD_FILE, VECTOR_FILE])
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, name: str) -> None:
    save_direction(make(random_rows()), tmp_path)
    whole = (tmp_path / name).read_bytes()
    for size in range(0, len(whole.rstrip()), 7):
        put(tmp_path, name, whole[:size])
        with pytest.raises(FormatError):
            load_direction(tmp_path)


def test_what_is_not_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(FormatError, match="is a file"):
        load_direction(tmp_path / "file")
    with pytest.raises(FormatError, match="no card"):
        load_direction(tmp_path / "nothing")
    with pytest.raises(FormatError):
        load_direction("nul\0byte")


def test_half_precision_in_the_folder_is_widened(tmp_path: Path) -> None:
    save_direction(make(random_rows()), tmp_path)
    put_tensors(tmp_path, vector=torch.from_numpy(random_rows()).half())
    assert load_direction(tmp_path).vector.dtype == torch.float32

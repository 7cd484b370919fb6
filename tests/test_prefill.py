"""Prompts that begin alike share a pass, and nothing changes by it."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import random_models as tiny
from mien.engines.hf_prefill import Prompt, prefill, stems
from mien.interventions import Add

MODEL = tiny.model_of("llama")
ACT = Add(tiny.direction_of(MODEL), at=1)
SYSTEM_A, SYSTEM_B = tuple(range(10, 40)), tuple(range(50, 75))


def questions(system: tuple[int, ...], acts: tuple[Add, ...] = ()) -> list[Prompt]:
    return [Prompt((*system, 3, 7 + i, *range(i)), acts) for i in range(4)]


def test_beginnings_are_found() -> None:
    prompts = [*questions(SYSTEM_A), *questions(SYSTEM_B), *questions(SYSTEM_A, (ACT,))]
    assert stems(prompts) == [31] * 4 + [26] * 4 + [31] * 4


def test_nothing_is_shared_where_little_is_saved() -> None:
    assert stems([Prompt((1, *range(5, 40))), Prompt((1, *range(50, 90)))]) == [0, 0]
    assert stems([Prompt((1,)), Prompt((1, 2, 3))]) == [0, 0]


def test_rows_equal_each_prompt_alone() -> None:
    prompts = [*questions(SYSTEM_A), *questions(SYSTEM_B), *questions(SYSTEM_A, (ACT,)), questions(SYSTEM_A)[2]]
    with torch.inference_mode():
        together = prefill(MODEL, prompts, logits=True)
        assert together.logits is not None
        for row, prompt in enumerate(prompts):
            alone = tiny.naive_logits(MODEL.net, prompt.ids, len(prompt.ids), prompt.interventions)
            torch.testing.assert_close(together.logits[row], alone[-1], atol=1e-4, rtol=1e-4)
            assert int(together.mask[row].sum()) == len(prompt.ids)


def test_shared_tokens_are_run_once() -> None:
    seen: list[int] = []
    handle = MODEL.blocks.modules[0].register_forward_hook(lambda _m, _a, out: seen.append(out.shape[0] * out.shape[1]))
    try:
        with torch.inference_mode():
            prefill(MODEL, questions(SYSTEM_A), logits=True)
    finally:
        handle.remove()
    assert seen == [31, 4 * 4]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=12).map(tuple), min_size=1, max_size=8, unique=True))
def test_stems_are_shared_and_leave_a_token(rows: list[tuple[int, ...]]) -> None:
    cut = stems([Prompt(row) for row in rows])
    if any(cut):
        assert all(0 < n < len(row) for n, row in zip(cut, rows, strict=True))

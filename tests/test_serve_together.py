"""Turns of answers that end together go into the history in one transaction, each as it would alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
import sqlalchemy as sa

from mien.errors import InputError, MienError, RunError
from mien.serve.catalog import Catalog
from mien.serve.history import History
from mien.serve.recorder import Recorder
from mien.serve.records import Alarm, Turn
from mien.serve.together import MOST, Kept, Together
from sample_turns import turn


def commits_of(history: History) -> list[None]:
    """Grows with each transaction that the history commits."""
    found: list[None] = []
    sa.event.listen(history._engine, "commit", lambda _: found.append(None))
    return found


def test_turns_recorded_together_are_as_recorded_one_by_one() -> None:
    turns = [turn("a", 1, axis="turn"), turn("a", 3, axis="drift"), turn("b", 1), turn("a", 5, axis="drift")]
    with History("sqlite://") as together, History("sqlite://") as apart:
        commits = commits_of(together)
        assert together.record_all(turns) == [apart.record(each) for each in turns]
        assert len(commits) == 1
        for conversation in ("a", "b"):
            assert together.conversation(conversation) == apart.conversation(conversation)


def test_one_that_cannot_be_kept_is_refused_alone() -> None:
    bad = replace(turn("b", 1), request="")
    with History("sqlite://") as history:
        first, refused, last = history.record_all([turn("a", 1), bad, turn("c", 1, axis="turn")])
        assert first == []
        assert isinstance(refused, InputError)
        assert isinstance(last, list)
        assert [alarm.id for alarm in last] == [1]
        assert [len(history.conversation(c)) for c in "abc"] == [1, 0, 1]


def test_a_turn_that_cannot_be_held_does_not_make_the_history_a_failed_one() -> None:
    async def put(recorder: Recorder) -> list[bool]:
        found = []
        for each in (turn("a", 1), replace(turn("a", 3), model=""), turn("a", 5)):
            await recorder.put([each])
            found.append(recorder.failed)
        return found

    class Nobody:
        def publish(self, alarms: Sequence[Alarm]) -> None:
            raise AssertionError(alarms)

    with History("sqlite://") as history:
        recorder = Recorder(
            history, Nobody(), None, None, Catalog(None, (), {}), "tiny", tells=False, keep_text=False
        )  # fmt: skip
        assert asyncio.run(put(recorder)) == [False, False, False]
        recorder.close()
        assert [kept.index for kept in history.conversation("a")] == [1, 5]


def test_where_the_database_refuses_them_together_each_is_tried() -> None:
    with History("sqlite://") as history:
        with history._engine.begin() as connection:
            rule = "CREATE TRIGGER no BEFORE INSERT ON mien_turns WHEN NEW.conversation = 'b' "
            connection.exec_driver_sql(rule + "BEGIN SELECT RAISE(ABORT, 'not here'); END")
        first, refused, last = history.record_all([turn("a", 1, axis="turn"), turn("b", 1), turn("c", 1, axis="turn")])
        assert isinstance(refused, RunError)
        assert "not here" in str(refused)
        assert isinstance(first, list)
        assert isinstance(last, list)
        assert [alarm.id for alarm in (*first, *last)] == [1, 2]


def test_those_that_come_while_one_is_written_go_together() -> None:
    batches: list[list[str]] = []

    async def write(turns: Sequence[Turn]) -> list[Kept]:
        batches.append([each.request for each in turns])
        await asyncio.sleep(0.01)
        return [[] for _ in turns]

    async def run() -> list[list[Kept]]:
        together = Together(write)
        first = asyncio.create_task(together.record([turn("a", 1)]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        rest = [asyncio.create_task(together.record([turn(f"c{i}", 1), turn(f"c{i}", 3)])) for i in range(MOST)]
        return await asyncio.gather(first, *rest)

    found = asyncio.run(run())
    assert [len(batch) for batch in batches] == [1, MOST, MOST]
    assert batches[1][:3] == ["c0-1", "c0-3", "c1-1"]
    assert found == [[[]], *[[[], []]] * MOST]


@pytest.mark.parametrize("error", [RunError("The disk is full."), ValueError("a mistake")])
def test_a_failure_reaches_everyone_who_waits(error: Exception) -> None:
    broken = [True]

    async def write(turns: Sequence[Turn]) -> list[Kept]:
        if broken.pop() if broken else False:
            raise error
        return [[] for _ in turns]

    async def run() -> tuple[list[Kept], list[Kept]]:
        together = Together(write)
        return await together.record([turn("a", 1), turn("b", 1)]), await together.record([turn("c", 1)])

    first, second = asyncio.run(run())
    assert [type(kept) for kept in first] == [RunError, RunError]
    assert all(isinstance(kept, MienError) and str(kept).endswith(".") for kept in first)
    assert second == [[]]


def test_one_who_leaves_keeps_nobody_waiting() -> None:
    async def write(turns: Sequence[Turn]) -> list[Kept]:
        await asyncio.sleep(0.01)
        return [[] for _ in turns]

    async def run() -> list[Kept]:
        together = Together(write)
        gone = asyncio.create_task(together.record([turn("a", 1)]))
        stays = asyncio.create_task(together.record([turn("b", 1)]))
        await asyncio.sleep(0)
        gone.cancel()
        return await stays

    assert asyncio.run(run()) == [[]]

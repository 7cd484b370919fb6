"""Listeners get every alarm once and in order, however slow they are and whoever recorded it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.serve.events import PAGE, RING, Hub
from mien.serve.history import DAY, History
from mien.serve.records import Alarm
from sample_turns import Clock, stormy, turn


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'h.db'}"


@pytest.fixture
def history(address: str) -> Iterator[History]:
    with History(address) as opened:
        yield opened


async def take(stream: AsyncIterator[Alarm], count: int) -> list[int]:
    """Ids of the next alarms."""
    return [(await anext(stream)).id for _ in range(count)]


async def rest(stream: AsyncIterator[Alarm]) -> list[int]:
    """Ids up to the stream's end."""
    return [alarm.id async for alarm in stream]


def test_without_an_id_a_stream_begins_now(history: History) -> None:
    async def play() -> list[int]:
        history.record(turn("c", 1, axis="turn"))
        hub = Hub(history)
        stream = hub.stream()
        hub.publish(history.record(turn("c", 3, axis="turn", evil="turn")))
        found = await take(stream, 2)
        hub.close()
        return found + await rest(stream)

    assert asyncio.run(play()) == [2, 3]


@pytest.mark.parametrize("after", [-5, 0, 1, 3, 4])
def test_with_an_id_it_begins_with_what_came_since(history: History, after: int) -> None:
    async def play() -> list[int]:
        for i in range(3):
            history.record(turn("c", i, axis="turn"))
        hub = Hub(history)
        hub.publish(history.record(turn("c", 3, axis="turn")))
        stream = hub.stream(after)
        found = await take(stream, 4 - max(after, 0))
        hub.publish(history.record(turn("c", 4, axis="turn")))
        found += await take(stream, 1)
        hub.close()
        return found + await rest(stream)

    assert asyncio.run(play()) == list(range(max(after, 0) + 1, 6))


def test_an_id_of_another_history_brings_everything(history: History) -> None:
    async def play() -> list[int]:
        hub = Hub(history)
        hub.publish(history.record(turn("c", 1, axis="turn")))
        return await take(hub.stream(900), 1)

    assert asyncio.run(play()) == [1]


@settings(deadline=None, max_examples=40)
@given(st.permutations(range(8)), st.integers(0, 8), st.lists(st.integers(0, 7), max_size=4))
def test_publishing_in_any_order_loses_and_doubles_nothing(order: list[int], early: int, again: list[int]) -> None:
    """Threads that recorded one after another may publish in another order, or twice."""

    async def play(history: History) -> list[int]:
        hub = Hub(history)
        batches = [history.record(turn("c", i, axis="turn", evil="turn")) for i in range(8)]
        stream = hub.stream()
        for i in order[:early]:
            hub.publish(batches[i])
        found = await take(stream, 1) if early else []
        for i in order[early:] + again:
            hub.publish(batches[i])
        found += await take(stream, 16 - len(found))
        hub.close()
        return found + await rest(stream)

    with History("sqlite://") as history:
        assert asyncio.run(play(history)) == list(range(1, 17))


def test_a_slow_listener_falls_back_to_the_history(history: History) -> None:
    async def play() -> tuple[list[int], list[int]]:
        hub = Hub(history)
        slow, quick = hub.stream(), hub.stream()
        first = asyncio.ensure_future(anext(slow))
        got, total = [], 0
        while total < RING + 10 * PAGE:
            batch = history.record(stormy(total, 150))
            total += len(batch)
            hub.publish(batch)
            got += await take(quick, len(batch))
            assert len(hub._ring) <= RING
        late = [(await first).id, *await take(slow, total - 1)]
        return got, late

    quick, slow = asyncio.run(play())
    assert quick == slow == list(range(1, len(quick) + 1))


def test_many_listeners_and_many_threads(history: History) -> None:
    listeners, threads, each = 100, 4, 10

    async def play() -> list[list[int]]:
        hub = Hub(history)
        streams = [asyncio.create_task(rest(hub.stream())) for _ in range(listeners)]
        await asyncio.sleep(0)

        def work(name: str) -> None:
            for i in range(each):
                hub.publish(history.record(turn(name, i, axis="turn")))

        workers = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(threads)]
        for worker in workers:
            worker.start()
        follower = hub.stream(0)
        await take(follower, threads * each)
        for worker in workers:
            await asyncio.to_thread(worker.join)
        hub.close()
        return await asyncio.gather(*streams)

    for found in asyncio.run(play()):
        assert found == list(range(1, threads * each + 1))


def test_listeners_may_live_in_other_loops(history: History) -> None:
    hub, found = Hub(history), []

    def listen() -> None:
        found.append(asyncio.run(rest(hub.stream(0))))

    threads = [threading.Thread(target=listen) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(20):
        hub.publish(history.record(turn("c", i, axis="turn")))
    hub.close()
    for thread in threads:
        thread.join()
    # Whoever came after the end has nothing but an end.
    assert all(ids == list(range(1, len(ids) + 1)) for ids in found)
    hub.publish(history.record(turn("c", 99, axis="turn")))


def test_what_another_process_recorded_comes_too(history: History, address: str) -> None:
    async def play() -> list[int]:
        hub = Hub(history, look=0.01)
        streams = [asyncio.create_task(take(hub.stream(), 3 * PAGE)) for _ in range(3)]
        await asyncio.sleep(0)
        with History(address) as other:
            for i in range(3):
                other.record(stormy(i, PAGE))
        found = await asyncio.gather(*streams)
        assert found[0] == found[1] == found[2]
        return found[0]

    assert asyncio.run(play()) == list(range(1, 3 * PAGE + 1))


def test_a_listener_goes_on_over_what_was_deleted(address: str) -> None:
    async def play() -> list[int]:
        clock = Clock()
        with History(address, retention_days=1, clock=clock) as history:
            hub = Hub(history)
            stream = hub.stream()
            for i in range(3):
                hub.publish(history.record(stormy(i, RING)))
            clock.now += 2 * DAY
            history.forget()
            last = history.record(turn("c", 1, at=clock.now, axis="turn"))
            hub._ring.clear()
            hub.publish(last)
            return await take(stream, 1)

    assert asyncio.run(play()) == [3 * RING + 1]


def test_a_listener_does_not_ask_again_and_again_for_what_was_deleted(address: str) -> None:
    asked: list[int] = []

    class Log(History):
        def alarms(self, after: int = 0, limit: int = 100) -> list[Alarm]:
            asked.append(after)
            return super().alarms(after, limit)

    async def play() -> None:
        clock = Clock()
        with Log(address, retention_days=1, clock=clock) as history:
            history.record(stormy(1, 5))
            clock.now += 2 * DAY
            history.forget()
            hub = Hub(history, look=3600)
            task = asyncio.create_task(take(hub.stream(0), 1))
            while not asked:
                await asyncio.sleep(0)
            for _ in range(20):
                await asyncio.to_thread(lambda: None)
            hub.publish(history.record(turn("c", 1, at=clock.now, axis="turn")))
            assert await task == [6]

    asyncio.run(play())
    assert asked == [0]


def test_a_listener_that_leaves_is_forgotten(history: History) -> None:
    async def play() -> None:
        hub = Hub(history)
        task = asyncio.create_task(rest(hub.stream()))
        while hub.listeners == 0:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert hub.listeners == 0
        stream = hub.stream(0)
        hub.publish(history.record(turn("c", 1, axis="turn")))
        await take(stream, 1)
        assert hub.listeners == 1
        await stream.aclose()
        assert hub.listeners == 0

    asyncio.run(play())


def test_closing_ends_streams_that_wait_and_those_to_come(history: History) -> None:
    async def play() -> list[list[int]]:
        hub = Hub(history)
        waiting = asyncio.create_task(rest(hub.stream()))
        while hub.listeners == 0:
            await asyncio.sleep(0)
        hub.publish(history.record(turn("c", 1, axis="turn")))
        hub.close()
        return [await waiting, await rest(hub.stream())]

    assert asyncio.run(play()) == [[1], []]

"""The history: what is recorded is there, once, whatever happens to the process. On SQLite, and on the database that
MIEN_TEST_DATABASE names as well."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.errors import FormatError, InputError, MienError, MissingExtraError, RunError
from mien.serve import database
from mien.serve.history import BATCH, DAY, History, default_url
from mien.serve.records import Alarm, AlarmKind, GaugeReading, Turn
from sample_turns import Clock, empty, reading, turn, wipe

TESTS = Path(__file__).parent
# What a process of its own needs to import mien and the tests' own files.
PATHS = [str(TESTS.parent / "src"), str(TESTS), os.environ.get("PYTHONPATH")]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in PATHS if path)}
OTHER = os.environ.get("MIEN_TEST_DATABASE")
DATABASES = ["sqlite", *(["other"] if OTHER else [])]


@pytest.fixture(params=DATABASES)
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A URL of an empty database that several connections may share."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'history.db'}"
    assert OTHER is not None
    empty(OTHER)
    return OTHER


@pytest.fixture
def history(address: str) -> Iterator[History]:
    """An empty history that keeps texts."""
    with History(address, keep_text=True) as opened:
        yield opened


# What is recorded


def test_a_turn_comes_back_as_it_was(history: History) -> None:
    first = replace(
        turn("c", 1, messages=["Hi", "Hello"], assistant=None, evil="turn"), held=True, fired=0.125, source="posted",
        owner="alice",
    )  # fmt: skip
    second = turn("c", 3, messages=["Hi", "Hello", "And?", "So."], assistant="drift")
    history.record(second)
    history.record(first)
    assert history.conversation("c") == [first, second]
    assert history.conversation("d") == []


def test_an_alarm_says_what_the_turn_said(history: History) -> None:
    recorded = turn("c", 3, request="r", at=12.5, axis="drift", evil=None)
    (alarm,) = history.record(recorded)
    assert alarm == Alarm(1, "c", 3, "r", "m", 12.5, "axis", "drift", -3.0, 1.5, 1)
    assert history.alarms() == [alarm]


def test_the_same_request_and_index_again_changes_nothing(history: History) -> None:
    history.owe_to(["t"])
    recorded = turn("c", 1, axis="turn", evil="drift")
    alarms = history.record(recorded)
    assert history.record(recorded) == alarms
    assert history.record(replace(recorded, conversation="d", at=5000.0)) == alarms
    assert (history.alarms(), history.deliveries()) == (alarms, {"pending": 2})
    assert [c["id"] for c in history.conversations()] == ["c"]


def kinds(history: History, conversation: str, states: list[tuple[int, AlarmKind | None]], round: str) -> list[int]:
    """Record turns of one gauge, given by index and alarm; the indexes that raised a drift alarm."""
    found = []
    for index, alarm in states:
        told = history.record(turn(conversation, index, f"{conversation}-{index}-{round}", axis=alarm))
        found += [alarm.index for alarm in told if alarm.kind == "drift"]
    return found


def test_drift_is_told_once_while_it_lasts(history: History) -> None:
    states: list[tuple[int, AlarmKind | None]] = [(1, None), (3, "drift"), (5, "drift"), (7, "turn"), (9, "drift")]
    assert kinds(history, "c", states, "a") == [3, 9]
    assert [alarm.index for alarm in history.alarms()] == [3, 7, 9]


def test_a_conversation_read_again_raises_no_drift_alarm_again(history: History) -> None:
    states: list[tuple[int, AlarmKind | None]] = [(1, None), (3, None), (5, "drift")]
    assert kinds(history, "c", states, "a") == [5]
    assert kinds(history, "c", [*states, (7, "drift")], "b") == []
    assert kinds(history, "c", [*states, (7, "drift"), (9, None), (11, "drift")], "c") == [11]


def test_a_conversation_that_goes_on_from_an_earlier_message_may_drift_anew(history: History) -> None:
    assert kinds(history, "c", [(1, None), (3, "drift"), (5, "drift")], "a") == [3]
    assert kinds(history, "c", [(3, None), (5, "drift"), (7, "drift")], "b") == [5]


def test_each_gauge_and_each_conversation_drifts_for_itself(history: History) -> None:
    history.record(turn("c", 1, axis="drift"))
    assert len(history.record(turn("c", 3, axis="drift", evil="drift"))) == 1
    assert len(history.record(turn("d", 3, axis="drift"))) == 1


def test_a_turn_without_the_gauge_does_not_end_its_drift(history: History) -> None:
    history.record(turn("c", 1, axis="drift"))
    history.record(turn("c", 3, evil=None))
    assert history.is_off("c", ["axis"])
    assert history.is_off("c")
    assert history.record(turn("c", 5, axis="drift")) == []


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from([None, "turn", "drift"]), max_size=12))
def test_drift_alarms_are_as_many_as_stretches_of_drift(states: list[AlarmKind | None]) -> None:
    with History("sqlite://") as history:
        told = kinds(history, "c", [(2 * i + 1, state) for i, state in enumerate(states)], "a")
    begins = [i for i, s in enumerate(states) if s == "drift" and (i == 0 or states[i - 1] != "drift")]
    assert told == [2 * i + 1 for i in begins]


def test_what_is_not_a_number_says_nothing(history: History) -> None:
    odd = GaugeReading("axis", float("nan"), float("inf"), 0.0, None, None)
    history.record(replace(turn(), readings=(odd,), fired=float("nan")))
    (kept,) = history.conversation("c")
    assert (kept.readings[0].projection, kept.readings[0].sigma, kept.fired) == (None, None, None)


@pytest.mark.parametrize(
    "bad",
    [
        {"conversation": ""},
        {"conversation": "x" * 201},
        {"conversation": "a\0b"},
        {"conversation": "\ud800"},
        {"conversation": " a"},
        {"request": "a\nb"},
        {"model": "m" * 1001},
        {"finish": ""},
        {"at": float("nan")},
        {"readings": (GaugeReading("", 0.0, 0.0, 0.0, None),)},
        {"readings": (GaugeReading("axis", 0.0, 0.0, float("inf"), None),)},
    ],
)
def test_a_turn_that_cannot_be_kept_is_refused_whole(history: History, bad: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"^A turn cannot be recorded: [^\n]*\.$"):
        history.record(replace(turn(axis="turn"), **bad))  # type: ignore[arg-type]
    assert (history.alarms(), history.conversations()) == ([], [])


# Texts


def test_texts_are_kept_only_if_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    with History(f"sqlite:///{path}") as history:
        history.record(turn(messages=["my secret", "is safe"]))
        assert history.conversation("c")[0].messages is None
    assert b"my secret" not in path.read_bytes()


@pytest.mark.parametrize("text", ["", "nul \0 nul", "half \ud83d of a pair", "𝔘𝔫𝔦 😀", "x" * 200_000])
def test_any_text_comes_back(history: History, text: str) -> None:
    said = turn(messages=[text, "Aha", text])
    history.record(said)
    assert history.conversation("c") == [said]


def test_a_growing_conversation_is_stored_once(address: str) -> None:
    words = [f"{i} " + "x" * 1000 for i in range(80)]
    with History(address, keep_text=True) as history:
        for i in range(2, 81, 2):
            history.record(turn("c", i - 1, messages=words[:i]))
        assert [m.content for m in history.conversation("c")[-1].messages or ()] == words
    with sa.create_engine(address).connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(database.texts)).scalar() == 80


# Reading


def test_alarms_are_paged_by_id(history: History) -> None:
    ids = [history.record(turn("c", i, axis="turn"))[0].id for i in range(7)]
    assert ids == [1, 2, 3, 4, 5, 6, 7]
    assert [a.id for a in history.alarms(limit=3)] == [1, 2, 3]
    assert [a.id for a in history.alarms(after=3, limit=3)] == [4, 5, 6]
    assert [a.id for a in history.recent_alarms(limit=2)] == [7, 6]
    assert [a.id for a in history.recent_alarms(limit=2, before=6)] == [5, 4]
    assert (history.alarms(after=7), history.last_alarm()) == ([], 7)


def test_conversations_are_told_by_their_worst_reading(history: History) -> None:
    history.record(turn("a", 1, at=10.0, axis=None, evil="turn"))
    history.record(replace(turn("a", 3, at=30.0, axis=None), model="n"))
    history.record(turn("b", 1, at=20.0))
    assert history.conversations() == [
        {"id": "a", "at": 30.0, "turns": 2, "model": "n", "alarms": 1,
         "gauge": "evil", "sigma": -1.0, "statistic": 0.5, "alarm": "turn"},
        {"id": "b", "at": 20.0, "turns": 1, "model": "m", "alarms": 0,
         "gauge": None, "sigma": None, "statistic": None, "alarm": None},
    ]  # fmt: skip


def test_pages_of_conversations_leave_none_out(history: History) -> None:
    for i in range(9):
        history.record(turn(f"c{i}", 1, at=float(i // 3)))
    seen: list[str] = []
    before = None
    while page := history.conversations(limit=2, before=before):
        assert len(page) == 3, "those of one moment stay together"
        seen += [c["id"] for c in page]
        before = page[-1]["at"]
    assert seen == ["c6", "c7", "c8", "c3", "c4", "c5", "c0", "c1", "c2"]


def test_a_conversation_is_off_as_its_latest_turn_says(history: History) -> None:
    assert not history.is_off("c")
    history.record(turn("c", 1, axis="drift", evil="turn"))
    assert history.is_off("c")
    assert history.is_off("c", ["evil", "axis"])
    assert not history.is_off("c", ["evil"])
    assert not history.is_off("c", [])
    assert not history.is_off("d")
    assert history.alarm_kinds("c") == {"drift", "turn"}
    history.record(turn("c", 3, axis=None))
    assert not history.is_off("c")
    assert history.alarm_kinds("c", ["axis"]) == {"drift"}
    assert history.alarm_kinds("c", []) == frozenset()


def test_drift_under_another_key_keeps_no_alarm_from_being_told(history: History) -> None:
    told = [history.record(turn("c", 1, axis="drift"))]
    for i, owner in ((1, "bob"), (3, "bob"), (3, "alice")):
        told.append(history.record(replace(turn("c", i, f"{owner}-{i}", axis="drift"), owner=owner)))
    assert [len(alarms) for alarms in told] == [1, 1, 0, 1]


def test_alarms_of_an_owner_are_those_of_its_own_answers(history: History) -> None:
    """Whoever knows a conversation's id may post readings under it."""
    history.record(replace(turn("c", 1, axis="drift"), source="posted", owner="bob"))
    history.record(replace(turn("c", 3, axis="turn"), owner="alice"))
    assert history.alarm_kinds("c", owner="bob") == history.alarm_kinds("c", owner="") == frozenset()
    assert history.alarm_kinds("c", ["axis"], owner="alice") == {"turn"}
    assert history.alarm_kinds("c") == {"drift", "turn"}


# Any sequence, beside a plain list


@dataclass
class Naive:
    """The history as its description reads, in a list."""

    retention: float
    kept: list[tuple[Turn, list[Alarm]]] = field(default_factory=list)
    last: int = 0

    def record(self, turn: Turn) -> list[Alarm]:
        for known, alarms in self.kept:
            if (known.request, known.index) == (turn.request, turn.index):
                return alarms
        alarms = []
        for r in turn.readings:
            if r.alarm is None or (r.alarm == "drift" and not self.begins(turn, r.gauge)):
                continue
            self.last += 1
            alarms.append(
                Alarm(self.last, turn.conversation, turn.index, turn.request, turn.model, turn.at, r.gauge, r.alarm,
                      r.sigma, r.statistic, r.since)
            )  # fmt: skip
        self.kept.append((turn, alarms))
        return alarms

    def begins(self, turn: Turn, gauge: str) -> bool:
        state: dict[int, str | None] = {}
        for known, alarms in self.kept:
            if known.conversation == turn.conversation:
                state.update((known.index, r.alarm) for r in known.readings if r.gauge == gauge)
                told = [a for a in alarms if (a.gauge, a.kind, a.index) == (gauge, "drift", turn.index)]
                if told:
                    return False
        earlier = [index for index in state if index < turn.index]
        return not earlier or state[max(earlier)] != "drift"

    def forget(self, now: float) -> None:
        self.kept = [(turn, alarms) for turn, alarms in self.kept if turn.at >= now - self.retention]

    def alarms(self) -> list[Alarm]:
        return sorted((a for _, alarms in self.kept for a in alarms), key=lambda a: a.id)

    def conversation(self, id: str) -> list[Turn]:
        return sorted((t for t, _ in self.kept if t.conversation == id), key=lambda t: t.index)

    def is_off(self, id: str, gauges: list[str]) -> bool:
        state = {r.gauge: r.alarm for t, _ in self.kept if t.conversation == id for r in t.readings}
        return any(state.get(gauge) == "drift" for gauge in gauges)

    def conversations(self) -> list[tuple[str, float, int, int]]:
        found = []
        for id in {t.conversation for t, _ in self.kept}:
            of = [(t, alarms) for t, alarms in self.kept if t.conversation == id]
            found.append((id, max(t.at for t, _ in of), len(of), sum(len(alarms) for _, alarms in of)))
        return sorted(found, key=lambda c: (-c[1], c[0]))


TURNS = st.builds(
    lambda conversation, index, request, alarms, texts: turn(
        conversation, index, request, messages=texts[: index + 1] or None, **alarms
    ),
    st.sampled_from(["a", "A"]),
    st.sampled_from([1, 3, 5]),
    st.sampled_from(["r1", "r2", "r3", "r4"]),
    st.dictionaries(st.sampled_from(["axis", "evil"]), st.sampled_from([None, "turn", "drift"])),
    st.lists(st.sampled_from(["x", "y"]), max_size=6),
)
WAITS = st.floats(0.1, 2.0)


def agree(history: History, naive: Naive) -> None:
    """Both say the same, whatever they are asked."""
    assert history.last_alarm() == naive.last
    told = [(c["id"], c["at"], c["turns"], c["alarms"]) for c in history.conversations()]
    assert told == naive.conversations()
    for id in ("a", "A"):
        assert history.conversation(id) == naive.conversation(id)
        for gauges in (["axis"], ["evil"], ["axis", "evil"]):
            assert history.is_off(id, gauges) == naive.is_off(id, gauges)


@pytest.mark.parametrize("where", DATABASES)
def test_any_sequence_gives_what_a_plain_list_gives(where: str) -> None:
    clock, address = Clock(), OTHER if where == "other" and OTHER else "sqlite://"
    if where == "other":
        empty(address)
    with History(address, keep_text=True, retention_days=1, clock=clock) as history:

        @settings(deadline=None, max_examples=150)
        @given(steps=st.lists(st.one_of(TURNS, TURNS, TURNS, WAITS), max_size=14))
        def play(steps: list[Turn | float]) -> None:
            naive = Naive(retention=DAY)
            wipe(history)
            for step in steps:
                if isinstance(step, float):
                    clock.now += step * DAY
                    history.forget()
                    naive.forget(clock.now)
                else:
                    clock.now += 1
                    now = replace(step, at=clock.now)
                    assert history.record(now) == naive.record(now)
                assert history.alarms() == naive.alarms()
            agree(history, naive)

        play()


# Retention


def test_what_is_older_than_the_retention_goes(address: str) -> None:
    clock = Clock(100 * DAY)
    with History(address, keep_text=True, retention_days=10, clock=clock) as history:
        history.record(turn("old", 1, at=80 * DAY, messages=["private", "words"], axis="turn"))
        history.record(turn("both", 1, at=80 * DAY, messages=["shared", "dropped branch"], axis="turn"))
        history.record(turn("both", 3, at=95 * DAY, messages=["shared", "other", "more", "end"], axis="turn"))
        assert history.forget() == 2
        assert [(a.id, a.conversation) for a in history.alarms()] == [(3, "both")]
        assert [c["id"] for c in history.conversations()] == ["both"]
        assert [m.content for m in history.conversation("both")[0].messages or ()] == ["shared", "other", "more", "end"]
        assert history.record(turn("new", 1, at=99 * DAY, axis="turn"))[0].id == 4, "no id is used twice"
        clock.now = 200 * DAY
        assert history.forget() == 2
        assert (history.alarms(), history.last_alarm()) == ([], 4)
        assert history.record(turn("new", 3, at=clock.now, axis="turn"))[0].id == 5
    with sa.create_engine(address).connect() as connection:
        counts = {
            table.name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar()
            for table in (database.turns, database.readings, database.texts, database.conversations)
        }
    assert counts == {"mien_turns": 1, "mien_readings": 1, "mien_texts": 0, "mien_conversations": 1}


def test_deleted_texts_are_not_left_in_the_file(tmp_path: Path) -> None:
    path, clock = tmp_path / "h.db", Clock()
    with History(f"sqlite:///{path}", keep_text=True, retention_days=1, clock=clock) as history:
        history.record(turn(at=1000.0, messages=["my secret" * 500, "is safe"]))
        clock.now += 2 * DAY
        assert history.forget() == 1
    assert b"my secret" not in path.read_bytes()
    assert [other.name for other in tmp_path.iterdir()] == ["h.db"]


def test_an_alarm_still_owed_outlives_the_retention_for_a_while(history: History, address: str) -> None:
    clock = Clock(10 * DAY)
    with History(address, retention_days=0.5, clock=clock) as short:
        short.owe_to(["t"])
        short.record(turn(at=10 * DAY, axis="turn"))
        clock.now += DAY
        assert short.forget() == 0
        clock.now += DAY
        assert short.forget() == 1
        assert short.deliveries() == {}


def test_retention_works_off_many_batches(address: str) -> None:
    clock = Clock(100 * DAY)
    with History(address, retention_days=1, clock=clock) as history:
        count = BATCH + 3
        for i in range(count):
            history.record(turn(f"c{i}", 1, at=1.0))
        assert history.forget() == count
        assert history.conversations() == []


def test_retention_begins_when_a_history_is_opened(address: str) -> None:
    with History(address) as history:
        history.record(turn(at=1.0))
    with History(address, retention_days=1):
        pass  # closing waits for it
    with History(address) as history:
        assert history.conversation("c") == []


# Processes and threads

RECORDER = """
import sys
from mien.serve.history import History
from sample_turns import turn
address, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
history = History(address)
history.owe_to(["t"])
for i in range(count):
    told = history.record(turn(f"{name}{i}", 1, axis="turn", evil="drift"))
    print(*(alarm.id for alarm in told), flush=True)
"""


def recorder(address: str, name: str, count: int) -> subprocess.Popen[str]:
    """A process that records turns and says the ids of the alarms that were acknowledged to it."""
    return subprocess.Popen(
        [sys.executable, "-c", RECORDER, address, name, str(count)],
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


def test_kill_9_loses_no_acknowledged_alarm(address: str) -> None:
    acknowledged: list[int] = []
    for round, lines in enumerate((1, 17, 40)):
        with recorder(address, f"p{round}-", 10**6) as process:
            assert process.stdout is not None
            for _ in range(lines):
                acknowledged += map(int, process.stdout.readline().split())
            process.kill()
            for line in process.stdout.read().splitlines():
                acknowledged += map(int, line.split())
        assert process.returncode == -9
    assert len(acknowledged) >= 2 * (1 + 17 + 40)
    with History(address) as history:
        alarms = history.alarms(limit=10**6)
        assert set(acknowledged) <= {alarm.id for alarm in alarms}
        assert [alarm.id for alarm in alarms] == list(range(1, len(alarms) + 1)), "whole turns, or nothing"
        assert len(alarms) % 2 == 0
        assert history.deliveries() == {"pending": len(alarms)}
        for alarm in alarms:
            (kept,) = history.conversation(alarm.conversation)
            assert [r.alarm for r in kept.readings] == ["turn", "drift"]
    if address.startswith("sqlite"):
        with closing(sqlite3.connect(address.removeprefix("sqlite:///"))) as plain:
            assert plain.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_two_processes_share_a_database_and_a_reader_misses_nothing(address: str) -> None:
    count = 60
    with History(address) as history, recorder(address, "p", count) as one, recorder(address, "q", count) as two:
        followed: list[int] = []
        while len(followed) < 4 * count:
            followed += [alarm.id for alarm in history.alarms(after=followed[-1] if followed else 0, limit=7)]
            assert {one.poll(), two.poll()} <= {None, 0}
        assert [one.wait(), two.wait()] == [0, 0]
    assert followed == list(range(1, 4 * count + 1))


def test_many_processes_open_a_new_database_at_once(address: str) -> None:
    processes = [recorder(address, f"p{i}-", 2) for i in range(6)]
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0] * 6
    with History(address) as history:
        assert history.last_alarm() == 6 * 2 * 2


@pytest.mark.parametrize("where", ["file", "memory"])
def test_threads_share_a_history(tmp_path: Path, where: str) -> None:
    address = f"sqlite:///{tmp_path / 'h.db'}" if where == "file" else "sqlite://"
    failures: list[BaseException] = []
    with History(address) as history:

        def work(name: str) -> None:
            try:
                for i in range(20):
                    history.record(turn(name, 2 * i + 1, axis="turn"))
                    assert len(history.conversation(name)) == i + 1
                    history.alarms(limit=5)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert [alarm.id for alarm in history.alarms(limit=1000)] == list(range(1, 121))


FULL = """
import resource, sys
from mien.errors import RunError
from mien.serve.history import History
from sample_turns import turn
history = History(sys.argv[1], keep_text=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
for i in range(1000):
    try:
        print(history.record(turn(f"c{i}", 1, messages=["x" * 5000, "y"], axis="turn"))[0].id, flush=True)
    except RunError as error:
        print(error)
        break
"""


def test_a_full_disk_is_a_sentence_and_loses_nothing(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'h.db'}"
    done = subprocess.run([sys.executable, "-c", FULL, address], capture_output=True, text=True, env=ENVIRONMENT)
    *ids, said = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert said.startswith("The history in ")
    assert "could not be written" in said
    with History(address) as history:
        assert [alarm.id for alarm in history.alarms(limit=1000)] == [int(id) for id in ids]


# What cannot be opened


def sentence(error: pytest.ExceptionInfo[MienError]) -> str:
    """The message, which is one line that ends as a sentence does."""
    said = str(error.value)
    assert "\n" not in said
    assert said.endswith(".")
    return said


@pytest.mark.parametrize(
    "bad", ["", "history.db", "nothing://x", "sqlite+nothing:///x.db", "://", "sqlite:///x.db?timeout=soon"]
)
def test_a_url_that_is_none_is_a_sentence(bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        History(bad)
    assert "database cannot be used" in sentence(error)


def test_an_asynchronous_driver_is_refused() -> None:
    with pytest.raises(InputError, match="asynchronous"):
        History("sqlite+aiosqlite:///x.db")


def test_a_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(InputError) as error:
        History("mysql+pymysql://user:hunter2@localhost/mien")
    assert "pip install pymysql" in sentence(error)


def test_no_message_has_a_password() -> None:
    url = sa.make_url("postgresql+psycopg://user:hunter2@host/mien?password=hunter3")
    assert database.where_is(url) == "postgresql+psycopg://user:***@host/mien"
    error = sa.exc.OperationalError("SELECT 'hunter4'", {"x": "hunter5"}, Exception("connection refused\nhunter6"))
    said = str(database.opening_error(error, database.where_is(url)))
    assert "connection refused" in said
    assert "hunter" not in said


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("These are my notes. " * 100)
    with pytest.raises(FormatError) as error:
        History(f"sqlite:///{path}")
    assert "not a database" in sentence(error)
    assert path.read_text() == "These are my notes. " * 100


@pytest.mark.parametrize("where", ["missing/h.db", ".", "a\0b"])
def test_a_place_where_no_file_can_be_is_a_sentence(tmp_path: Path, where: str) -> None:
    with pytest.raises(MienError) as error:
        History(f"sqlite:///{tmp_path}/{where}")
    assert "cannot be" in sentence(error)


def test_a_history_of_the_first_version_is_gone_on_with(tmp_path: Path) -> None:
    """It did not keep whose key a turn was asked for with."""
    path = tmp_path / "old.db"
    with History(f"sqlite:///{path}") as history:
        (told,) = history.record(turn("c", 1, axis="turn"))
        was = history.conversation("c")
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("ALTER TABLE mien_turns DROP COLUMN owner; UPDATE mien_schema SET version = 1;")
    for _ in range(2):
        with History(f"sqlite:///{path}") as history:
            assert history.conversation("c") == was
            assert history.alarms() == [told]
    with History(f"sqlite:///{path}") as history:
        history.record(replace(turn("c", 3), owner="alice"))
        assert [t.owner for t in history.conversation("c")] == ["", "alice"]


def test_a_history_of_another_version_is_refused(address: str) -> None:
    History(address).close()
    engine = sa.create_engine(address)
    with engine.begin() as connection:
        connection.execute(database.schema.update().values(version=7))
    engine.dispose()
    with pytest.raises(FormatError) as error:
        History(address)
    assert "version 7" in sentence(error)


def test_a_history_that_was_half_made_is_completed(address: str) -> None:
    engine = sa.create_engine(address)
    database.metadata.create_all(engine, tables=[database.schema, database.turns])
    engine.dispose()
    with History(address) as history:
        assert len(history.record(turn(axis="turn"))) == 1


def test_a_table_of_someone_else_is_a_sentence(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "h.db")) as plain:
        plain.execute("CREATE TABLE mien_schema (id INTEGER PRIMARY KEY, other TEXT)")
    with pytest.raises(RunError) as error:
        History(f"sqlite:///{tmp_path / 'h.db'}")
    assert "cannot be opened" in sentence(error)


def test_a_damaged_database_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    with History(f"sqlite:///{path}") as history:
        for i in range(50):
            history.record(turn("c", i, axis="turn"))
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(MienError) as error, History(f"sqlite:///{path}") as history:
        history.record(turn("c", 99))
    sentence(error)


def test_without_sqlalchemy_the_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mien\[serve\]'"):
        History("sqlite://")


@pytest.mark.parametrize("days", [0, -1, float("nan"), 1e9])
def test_a_retention_that_is_none_is_refused(days: float) -> None:
    with pytest.raises(InputError, match="retention"):
        History("sqlite://", retention_days=days)


def test_a_closed_history_says_so(history: History) -> None:
    history.close()
    for call in (history.alarms, history.conversations, lambda: history.record(turn())):
        with pytest.raises(RunError, match="was closed"):
            call()
    history.close()


def test_a_history_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    with History(f"sqlite:///{path}") as history:
        history.record(turn())
        assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}


def test_the_default_is_in_the_home(mien_home: Path) -> None:
    with History(default_url()) as history:
        history.record(turn())
    assert (mien_home / "serve.db").is_file()


def test_names_and_readings_have_their_history(history: History, address: str) -> None:
    with History(address) as again:
        assert again.name == history.name
    assert len(history.name) == 8
    history.record(replace(turn(), readings=(reading("b"), reading("a"), reading("b", "turn"))))
    assert [r.gauge for r in history.conversation("c")[0].readings] == ["b", "a", "b"]


@pytest.mark.parametrize("name", ["sqlite", "postgresql", "mysql", "mariadb", "mssql", "oracle"])
def test_the_tables_can_be_made_elsewhere(name: str) -> None:
    dialect = sa.make_url(f"{name}://").get_dialect()()
    for table in database.metadata.sorted_tables:
        assert f"CREATE TABLE {table.name}" in str(sa.schema.CreateTable(table).compile(dialect=dialect))

"""Run folders keep whole batches through torn files, full disks and rivals, and hold nothing but what was asked."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.errors import FormatError, RunError
from mien.records import Message, Reading, Rollout
from mien.store import RunFolder, Stage, canonical, rollout_of, rollout_record, short_hash, write_atomic

TEXTS = ("plain", "new\nline\r\x0b\x85\u2028", "naïve 字 🙂", 'quote " and \\ slash', "")


def batches() -> list[list[dict[str, Any]]]:
    """Three batches of one, three and two records."""
    sizes, made = (1, 3, 2), []
    for number, size in enumerate(sizes):
        made.append([{"id": f"{number}/{i}", "text": TEXTS[(number + i) % len(TEXTS)], "row": i} for i in range(size)])
    return made


def readings_for(batch: list[dict[str, Any]]) -> dict[str, Reading]:
    """A reading a record, told apart by its numbers."""
    return {r["id"]: Reading(r["id"], np.full((2, 3), float(i), np.float32), i + 1) for i, r in enumerate(batch)}


def ids(stage: Stage) -> list[str]:
    return [r["id"] for r in stage.records]


def test_what_is_appended_is_read_again(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "s")
    for batch in batches():
        stage.append(batch)
    again = Stage(tmp_path, "s")
    assert again.records == stage.records
    assert [r["text"] for r in again.records] == [r["text"] for batch in batches() for r in batch]
    assert again.done == {r["id"] for batch in batches() for r in batch}
    assert [(r["batch"], r["of"]) for r in again.records] == [(0, 1), (1, 3), (1, 3), (1, 3), (2, 2), (2, 2)]


def test_a_file_torn_at_any_byte_recovers_to_whole_batches_and_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    whole = Stage(tmp_path, "whole")
    ends = [0]
    for batch in batches():
        whole.append(batch)
        ends.append(whole.path.stat().st_size)
    data = whole.path.read_bytes()
    for size in range(len(data) + 1):
        torn = tmp_path / "torn.jsonl"
        torn.write_bytes(data[:size])
        stage = Stage(tmp_path, "torn")
        count = max(i for i, end in enumerate(ends) if end <= size)
        assert ids(stage) == [r["id"] for batch in batches()[:count] for r in batch], size
        assert torn.read_bytes() == data[: ends[count]], size
        for batch in batches()[count:]:
            stage.append(batch)
        assert torn.read_bytes() == data, size


@pytest.mark.parametrize("tail", [b"\0\0\0\0", b"1\n", b"null\n", b"{}\n", b'{"of": "x"}\n', b"\xff\xfe\n", b"[]\n"])
def test_rubbish_after_whole_batches_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    stage = Stage(tmp_path, "s")
    stage.append(batches()[1])
    before = stage.path.read_bytes()
    stage.path.write_bytes(before + tail)
    assert ids(Stage(tmp_path, "s")) == [r["id"] for r in batches()[1]]
    assert stage.path.read_bytes() == before


def test_half_a_surrogate_pair_is_kept(tmp_path: Path) -> None:
    Stage(tmp_path, "s").append([{"id": "a", "text": "\ud83d!"}])
    assert Stage(tmp_path, "s").records[0]["text"] == "\ud83d!"
    write_atomic(tmp_path / "x.json", canonical({"text": "\ud83d!"}))
    assert json.loads((tmp_path / "x.json").read_bytes()) == {"text": "\ud83d!"}
    assert short_hash("\ud83d") != short_hash("\ud83e")


def test_readings_come_back_in_the_order_written(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "s")
    for batch in batches():
        stage.append(batch, readings_for(batch))
    found = list(Stage(tmp_path, "s").readings())
    assert [r.id for r in found] == ids(stage)
    assert [r.n_tokens for r in found] == [1, 1, 2, 3, 1, 2]
    assert [float(r.mean[1, 2]) for r in found] == [0, 0, 1, 2, 0, 1]
    assert all(r.mean.dtype == np.float32 and r.mean.shape == (2, 3) for r in found)


def test_readings_without_their_lines_do_not_count_and_are_written_anew(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "s")
    first, second, _ = batches()
    stage.append(first, readings_for(first))
    stage.append(second, readings_for(second))
    whole = (tmp_path / "s.readings" / "00001.safetensors").read_bytes()
    lines = stage.path.read_bytes()
    stage.path.write_bytes(lines[:-1])
    (tmp_path / "s.readings" / "00001.safetensors").write_bytes(b"of another try")
    again = Stage(tmp_path, "s")
    assert [r.id for r in again.readings()] == [r["id"] for r in first]
    again.append(second, readings_for(second))
    assert (tmp_path / "s.readings" / "00001.safetensors").read_bytes() == whole
    assert stage.path.read_bytes() == lines


@pytest.mark.parametrize("harm", ["gone", "cut", "other"])
def test_readings_that_are_gone_or_corrupt_are_named(tmp_path: Path, harm: str) -> None:
    stage, batch = Stage(tmp_path, "s"), batches()[1]
    stage.append(batch, readings_for(batch))
    path = tmp_path / "s.readings" / "00000.safetensors"
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-4])
    else:
        Stage(tmp_path, "t").append(batch[:1], readings_for(batch[:1]))
        path.write_bytes((tmp_path / "t.readings" / "00000.safetensors").read_bytes())
    with pytest.raises(FormatError, match=r"00000\.safetensors are missing or corrupt"):
        list(Stage(tmp_path, "s").readings())


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from mien.errors import RunError
from mien.records import Reading
from mien.store import Stage, write_atomic
folder, limit, what = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
stage = Stage(folder, "s")
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    if what == "lines":
        stage.append([{"id": f"new/{i}", "text": "x" * 50} for i in range(200)])
    elif what == "readings":
        stage.append([{"id": "new", "row": 0}], {"new": Reading("new", np.zeros((10, 1000), np.float32), 1)})
    else:
        write_atomic(folder / "card.json", "y" * 20000)
except RunError as error:
    sys.exit(f"{error} | {len(stage.records)}")
"""


@pytest.mark.parametrize("what", ["lines", "readings", "atomic"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, what: str) -> None:
    stage = Stage(tmp_path, "s")
    for batch in batches():
        stage.append(batch)
    (tmp_path / "card.json").write_text("the old card")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    limit = stage.path.stat().st_size + 1500
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), str(limit), what], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "cannot be written: File too large. What was written before is intact. | 6" in done.stderr
    assert "Traceback" not in done.stderr
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(RunError, match=r"file/run cannot be written|file cannot be written"),
        RunFolder(tmp_path / "file", {}),
    ):
        pass
    with pytest.raises(RunError, match="cannot be written"):
        write_atomic(tmp_path / "nowhere" / "x", "x")


def test_write_atomic_replaces_and_leaves_no_other_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", "one")
    write_atomic(tmp_path / "a", b"two")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"two"


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with RunFolder(tmp_path, {"a": 1}):
        rival = "import sys\nfrom pathlib import Path\nfrom mien.store import RunFolder\n" \
            "RunFolder(Path(sys.argv[1]), {'a': 1}).__enter__()"  # fmt: skip
        done = subprocess.run([sys.executable, "-c", rival, str(tmp_path)], capture_output=True, text=True, check=False)
        assert "Another process is writing to" in done.stderr
        with pytest.raises(RunError, match="Another process is writing"), RunFolder(tmp_path, {"a": 1}):
            pass
    with RunFolder(tmp_path, {"a": 1}):
        pass


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({"seed": 0}, {"seed": 1}, "(seed was 0, is now 1)"),
        ({"s": {"b": "small", "seed": 0}}, {"s": {"b": "small", "seed": 1}}, "(s.seed was 0, is now 1)"),
        ({"s": {"seed": 0}}, {"s": {}}, "(s.seed was 0, is now null)"),
        ({"a": None}, {}, "(a was null, is now null)"),
        ({"model": "x" * 99}, {"model": "y"}, f'(model was "{"x" * 56}..., is now "y")'),
        ({"v": {"torch": "1"}}, {"v": [1]}, '(v was {"torch": "1"}, is now [1])'),
    ],
)
def test_another_runs_folder_is_refused_and_left_alone(
    tmp_path: Path, before: dict[str, Any], now: dict[str, Any], said: str
) -> None:
    with RunFolder(tmp_path, before) as run:
        run.stage("s").append([{"id": "a"}])
    files = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(RunError, match=re.escape(said) + ": choose another --out"), RunFolder(tmp_path, now):
        pass
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == files
    with RunFolder(tmp_path, before) as run:  # the refusal let go of the lock
        assert ids(run.stage("s")) == ["a"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"3", b"\xff\xfe", b"[" * 100000])
def test_a_manifest_that_is_none_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    with RunFolder(tmp_path, {}):
        pass
    (tmp_path / "run" / "manifest.json").write_bytes(content)
    with pytest.raises(RunError, match="choose another --out"), RunFolder(tmp_path, {}):
        pass


def test_what_a_killed_process_had_begun_to_write_is_swept_away_and_nothing_else(tmp_path: Path) -> None:
    with RunFolder(tmp_path, {}) as run:
        batch = batches()[0]
        run.stage("s").append(batch, readings_for(batch))
    left = [
        tmp_path / ".card.json.4711.tmp", tmp_path / ".direction.safetensors.0123456789ab.tmp",
        tmp_path / "run" / ".spec.yaml.12.tmp", tmp_path / "run" / "s.readings" / ".00001.safetensors.9.tmp",
    ]  # fmt: skip
    others = [tmp_path / ".notes.tmp", tmp_path / "a.1.tmp", tmp_path / "mine" / ".x.1.tmp", tmp_path / ".env"]
    others[2].parent.mkdir()
    for path in left + others:
        path.write_text("x")
    with RunFolder(tmp_path, {}) as run:
        assert not any(p.exists() for p in left)
        assert all(p.exists() for p in others)
        assert len(list(run.stage("s").readings())) == 1


def test_no_file_of_a_run_holds_a_clock_time(tmp_path: Path) -> None:
    """The same run at another time gives the same bytes, and no record has a field that is not the caller's."""
    made = []
    for name in ("one", "two"):
        with RunFolder(tmp_path / name, {"seed": 0}) as run:
            stage = run.stage("s")
            for batch in batches():
                stage.append(batch, readings_for(batch))
            fields = {key for record in stage.records for key in record}
        folder = tmp_path / name
        made.append({str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()})
    assert made[0] == made[1]
    assert len(made[0]) == 6  # manifest, lock, lines, three batches of readings
    assert fields == {"id", "text", "row", "batch", "of"}


@given(
    st.text(st.characters(codec=None)),
    st.lists(st.integers(0, 10**6)),
    st.none() | st.floats(-50, 0),
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text()), max_size=3),
)
def test_a_rollout_survives_its_record(
    text: str, tokens: list[int], logprob: float | None, talk: list[tuple[Any, str]]
) -> None:
    rollout = Rollout(
        "extract/0/1/pos/2", tuple(Message(*turn) for turn in talk), text, tuple(tokens), (1, 2), logprob, "length"
    )
    record = rollout_record(rollout)
    assert rollout_of(json.loads(json.dumps(record))) == rollout
    assert rollout_of(record) == rollout


def test_canonical_depends_on_the_value_alone() -> None:
    assert canonical({"b": 1, "a": [1.5, None]}) == canonical({"a": [1.5, None], "b": 1})
    assert short_hash({"b": 1, "a": 2}) == short_hash({"a": 2, "b": 1}) != short_hash({"a": 2, "b": 2})
    assert re.fullmatch("[0-9a-f]{16}", short_hash("x"))

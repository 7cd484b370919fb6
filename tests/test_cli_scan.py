"""The commands that read chats and make gauges, as people and programs meet them: what they print, leave and refuse."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.numpy import load_file

import tiny
from mien.cli import main
from mien.directions import save_direction
from mien.errors import FingerprintError, FormatError, InputError, ModelError, RunError, SpecError
from mien.gauges import GaugeSet, load_gauges, save_gauges
from mien.logs import LoggedConversation, read_logs
from mien.scanning import quiet
from processes import Done, mien
from random_models import direction_of
from test_cli import refused
from test_fit import labelled
from test_scan import gauges, logs, reader, talk, write_log

__all__ = ["gauges"]  # a fixture
Run = Callable[..., Done]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader's folder; its gauges are those of the same weights elsewhere."""
    return tiny.save(tiny.tiny_net(), tmp_path_factory.mktemp("reader"))


@pytest.fixture(scope="module")
def gauge_file(gauges: GaugeSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_gauges(gauges, tmp_path_factory.mktemp("gauges") / "two.safetensors")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 conversations, of which c100 begins to shout at message 12."""
    return logs(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def quiet_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("q") / "quiet.jsonl", [talk(5, seed) for seed in range(20)])


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """`mien WORDS` in this process, through the same entry point: a model of this size is loaded in no time."""

    def call(*words: str | Path) -> Done:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(w) for w in words])
        captured = capfd.readouterr()
        return Done(int(str(ended.value.code or 0)), captured.out, captured.err)

    return call


def scan_words(log: Path | str, model: Path, gauge_file: Path, out: Path, *more: str) -> tuple[str | Path, ...]:
    where = ("--reader", model, "--dtype", "float32", "--gauge-file", gauge_file, "--out", out)
    return ("scan", log, *where, *more)


# mien scan


def test_scan_prints_its_summary_as_json_and_leaves_it_with_table_and_page(
    log: Path, model: Path, gauge_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = mien(*scan_words(log, model, gauge_file, out, "--json", "--quiet"))
    assert (done.code, done.err) == (0, "")
    summary = json.loads(done.out)
    assert summary == json.loads((out / "summary.json").read_text())
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "run", "summary.json", "turns.parquet"]
    assert (summary["conversations"], summary["turns"], summary["skipped"]) == (21, 74, 0)
    assert [g["name"] for g in summary["gauges"]] == ["loud", "odd"]
    assert summary["worst"][0]["conversation"] == "c100"
    assert (summary["table"], summary["page"]) == (str(out / "turns.parquet"), str(out / "report.html"))
    rows = pq.read_table(out / "turns.parquet").to_pylist()
    assert len(rows) == 2 * 74
    assert {r["source"] for r in rows} == {str(log)}
    assert sum(r["alarm"] for r in rows if r["gauge"] == "loud") == summary["gauges"][0]["turns_alarmed"] >= 8
    page = (out / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "RED" in page


def test_scan_says_in_words_where_the_bot_left(
    log: Path, model: Path, gauge_file: Path, tmp_path: Path, run: Run
) -> None:
    done = run(*scan_words(log, model, gauge_file, tmp_path / "out"))
    assert done.code == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert done.out.startswith(f"{summary['drifted']} of 21 conversations drifted on at least one gauge (74 answers, ")
    assert f"  c100: left at message {summary['worst'][0]['left_at']} (loud, " in done.out
    assert done.out.endswith(f"report: {tmp_path / 'out' / 'report.html'}\n")
    assert "4 layers of 48" in done.err
    assert "reading conversations" in done.err
    assert "\x1b" not in done.err
    assert run(*scan_words(log, model, gauge_file, tmp_path / "out", "--quiet")).err == ""


def test_gauges_are_chosen_by_name_in_the_order_named(
    log: Path, model: Path, gauge_file: Path, tmp_path: Path, run: Run
) -> None:
    def names(out: str, *more: str) -> list[str]:
        done = run(*scan_words(log, model, gauge_file, tmp_path / out, "--json", "--quiet", *more))
        return [g["name"] for g in json.loads(done.out)["gauges"]]

    assert names("a", "--gauges", "odd") == ["odd"]
    assert names("b", "--gauges", " odd ,loud,odd,") == ["odd", "loud"]
    other = replace(load_gauges(gauge_file), gauges=load_gauges(gauge_file).gauges[:1])
    other = replace(other, gauges=(replace(other.gauges[0], name="third"),))
    save_gauges(other, tmp_path / "third")
    assert names("c", "--gauge-file", str(tmp_path / "third")) == ["loud", "odd", "third"]
    assert names("d", "--gauge-file", str(tmp_path / "third"), "--gauges", "third") == ["third"]


def test_fail_on_says_it_with_the_exit_code(
    log: Path, model: Path, gauge_file: Path, tmp_path: Path, run: Run
) -> None:
    words = scan_words(log, model, gauge_file, tmp_path / "out", "--quiet", "--json", "--gauges", "loud")
    plain = run(*words)
    assert plain.code == 0
    drifted = json.loads(plain.out)["drifted"]
    share = 100 * drifted / 21
    assert 1 <= drifted < 10
    cases = {
        "drift": 10, f"drift>{drifted - 1}": 10, f" drift > {drifted - 0.5} ": 10, f"drift>{drifted}": 0,
        f"drift>{share - 0.1:.1f}%": 10, f"drift>{share + 0.1:.1f}%": 0, "drift>100%": 0, "drift>0 %": 10,
    }  # fmt: skip
    for limit, code in cases.items():
        done = run(*words, "--fail-on", limit)
        assert (done.code, done.err, done.out) == (code, "", plain.out), limit
    calm = write_log(tmp_path / "calm.jsonl", [talk(3, 45)])
    words = scan_words(calm, model, gauge_file, tmp_path / "calm", "--quiet", "--json", "--gauges", "loud")
    assert json.loads(run(*words).out)["drifted"] == 0
    assert [run(*words, "--fail-on", limit).code for limit in ("drift", "drift>0", "drift>0%")] == [0, 0, 0]


def test_it_reads_packed_files_folders_tables_and_standard_input(
    model: Path, gauge_file: Path, tmp_path: Path, run: Run
) -> None:
    records = [talk(3, seed) for seed in range(40, 45)]
    plain = write_log(tmp_path / "plain.jsonl", records)
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b"".join(plain.read_bytes().splitlines(True)[2:])))
    (folder / "a.jsonl").write_bytes(b"".join(plain.read_bytes().splitlines(True)[:2]))
    table = tmp_path / "table.csv"
    rows = [(r["id"], m["role"], m["content"]) for r in records for m in r["messages"]]
    table.write_text("chat,who,text\n" + "".join(f'{chat},{who},"{text}"\n' for chat, who, text in rows))
    odd = tmp_path / "odd.chats"
    odd.write_bytes(plain.read_bytes())

    def found(name: str, source: Path | str, *more: str) -> list[tuple[Any, ...]]:
        out = tmp_path / "out" / name
        done = run(*scan_words(source, model, gauge_file, out, "--json", "--quiet", *more))
        assert (done.code, done.err) == (0, ""), name
        return taken(out)

    def taken(out: Path) -> list[tuple[Any, ...]]:
        rows = pq.read_table(out / "turns.parquet").to_pylist()
        return [(r["conversation"], r["message_index"], r["gauge"], r["projection"]) for r in rows]

    expected = found("plain", plain)
    assert len(expected) == 2 * 15
    assert found("packed", packed) == expected
    assert found("folder", folder) == expected
    assert found("format", odd, "--format", "jsonl") == expected
    assert found("table", table, "--columns", "conversation=chat,role=who,content=text") == expected
    assert found("both", plain, str(packed)) == expected + expected

    words = [str(w) for w in scan_words("-", model, gauge_file, tmp_path / "stdin", "--json", "--quiet")]
    with packed.open("rb") as file:
        done = subprocess.run([sys.executable, "-m", "mien", *words], stdin=file, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["conversations"] == 5
    assert taken(tmp_path / "stdin") == expected


def test_its_own_results_are_no_logs(log: Path, model: Path, gauge_file: Path, tmp_path: Path, run: Run) -> None:
    """As in `mien scan .`, twice, with the results in the same folder."""
    folder = tmp_path / "chats"
    folder.mkdir()
    (folder / "log.jsonl").write_bytes(log.read_bytes())
    words = scan_words(folder, model, gauge_file, folder / "scan", "--json", "--quiet")
    first, second = run(*words), run(*words)
    assert json.loads(first.out)["skipped"] == 0
    assert second == first


def test_what_logs_say_cannot_steer_a_terminal(
    model: Path, gauge_file: Path, tmp_path: Path, run: Run
) -> None:
    record = talk(3, 1, ("RED", "SUN", "TEA"))
    record["id"] = "x\x1b[2J\x9b31m\nreport: elsewhere"
    done = run(*scan_words(write_log(tmp_path / "log.jsonl", [record]), model, gauge_file, tmp_path / "out"))
    assert "left at message" in done.out
    assert "\x1b" not in done.out
    assert "\x9b" not in done.out
    assert done.out.count("\nreport: ") == 1


def bad_scans(log: Path, folder: Path) -> dict[str, tuple[list[str | Path], type[Any], str]]:
    (folder / "empty.jsonl").write_bytes(b"")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(200))
    (folder / "nothing").mkdir()
    (folder / "rubbish").write_bytes(b"rubbish")
    (folder / "table.csv").write_text("a,b\n1,2\n")
    return {
        "no file": ([], InputError, "Missing argument 'FILES...'"),
        "missing file": ([folder / "nowhere.jsonl"], FormatError, "nowhere.jsonl"),
        "one of two missing": ([log, folder / "nowhere.jsonl"], FormatError, "nowhere.jsonl"),
        "empty file": ([folder / "empty.jsonl"], FormatError, "is empty"),
        "no log": ([folder / "photo.jpg"], FormatError, "photo.jpg"),
        "empty folder": ([folder / "nothing"], InputError, "No file in the folder"),
        "columns that are not there": ([folder / "table.csv", "--columns", "content=c"], FormatError, "table.csv"),
        "standard input twice": (["-", "-"], InputError, "only once"),
        "fail-on": ([log, "--fail-on", "drfit"], InputError, "'drfit' is not understood"),
        "fail-on nothing": ([log, "--fail-on", ""], InputError, "write drift, drift>3"),
        "fail-on no number": ([log, "--fail-on", "drift>"], InputError, "is not understood"),
        "fail-on words": ([log, "--fail-on", "drift>many"], InputError, "is not understood"),
        "fail-on less": ([log, "--fail-on", "drift>-1"], InputError, "is not understood"),
        "fail-on dots": ([log, "--fail-on", "drift>1.2.3"], InputError, "is not understood"),
        "columns without =": ([log, "--columns", "role"], InputError, "'role'"),
        "unknown column": ([log, "--columns", "colour=c"], InputError, "'colour'"),
        "no columns": ([log, "--columns", ","], InputError, "NAME=COLUMN"),
        "format": ([log, "--format", "docx"], InputError, "'docx'"),
        "gauges": ([log, "--gauges", "loud,mood"], InputError, "'mood'"),
        "no gauges": ([log, "--gauges", " , "], InputError, "at least one gauge"),
        "gauge file": ([log, "--gauge-file", folder / "nowhere"], FormatError, "cannot be read"),
        "gauge file that is none": ([log, "--gauge-file", folder / "rubbish"], FormatError, "rubbish"),
        "gauge folder": ([log, "--gauge-file", folder / "nothing"], FormatError, "nothing"),
        "processes": ([log, "--processes", "0"], InputError, "0 is not in the range"),
        "dtype": ([log, "--dtype", "int4"], InputError, "int4"),
    }  # fmt: skip


BAD_SCANS = tuple(bad_scans.__annotations__) and (
    "no file", "missing file", "one of two missing", "empty file", "no log", "empty folder",
    "columns that are not there", "standard input twice", "fail-on", "fail-on nothing", "fail-on no number",
    "fail-on words", "fail-on less", "fail-on dots", "columns without =", "unknown column", "no columns", "format",
    "gauges", "no gauges", "gauge file", "gauge file that is none", "gauge folder", "processes", "dtype",
)  # fmt: skip

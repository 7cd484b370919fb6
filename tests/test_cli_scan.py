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
from fake_endpoint import FakeEndpoint, status
from mien.cli import main
from mien.directions import save_direction
from mien.errors import EndpointError, FingerprintError, FormatError, InputError, ModelError, RunError, SpecError
from mien.gauges import GaugeSet, load_gauges, save_gauges
from mien.logs import LoggedConversation, read_logs
from mien.scanning import quiet
from processes import Done, mien
from random_models import direction_of
from test_cli import refused
from test_contrasts import answer, row
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


def test_another_log_in_the_same_folder_replaces_the_results_and_says_so(
    log: Path, model: Path, gauge_file: Path, tmp_path: Path, run: Run
) -> None:
    other = write_log(tmp_path / "other.jsonl", [talk(3, 900)])
    assert "replaced" not in run(*scan_words(log, model, gauge_file, tmp_path / "out")).err
    assert "replaced" not in run(*scan_words(log, model, gauge_file, tmp_path / "out")).err
    done = run(*scan_words(other, model, gauge_file, tmp_path / "out"))
    assert f"out held the scan of {log.name}; it has been replaced.\n" in done.err
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["of"] == "other.jsonl"


def test_a_folder_may_take_its_own_results(model: Path, gauge_file: Path, tmp_path: Path, run: Run) -> None:
    write_log(tmp_path / "a.jsonl", [talk(3, 40)])
    (tmp_path / "run").mkdir()
    write_log(tmp_path / "run" / "b.jsonl", [talk(3, 41)])
    write_log(tmp_path / "summary.json", [talk(3, 42)])
    words = scan_words(tmp_path, model, gauge_file, tmp_path, "--json", "--quiet")
    assert json.loads(run(*words).out)["conversations"] == 3, "until a run lies there, these are logs like others"
    write_log(tmp_path / "c.jsonl", [talk(3, 43)])
    for _ in range(2):
        again = json.loads(run(*words).out)
        assert (again["conversations"], again["skipped"]) == (2, 0)


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


def test_fail_on_says_it_with_the_exit_code(log: Path, model: Path, gauge_file: Path, tmp_path: Path, run: Run) -> None:
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


def test_what_logs_say_cannot_steer_a_terminal(model: Path, gauge_file: Path, tmp_path: Path, run: Run) -> None:
    record = talk(3, 1, ("RED", "SUN", "TEA"))
    record["id"] = "x\x1b[2J\x9b31m\nreport: elsewhere"
    done = run(*scan_words(write_log(tmp_path / "log.jsonl", [record]), model, gauge_file, tmp_path / "out"))
    assert "left at message" in done.out
    assert "\x1b" not in done.out
    assert "\x9b" not in done.out
    assert done.out.count("\nreport: ") == 1


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of things that cannot be used."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty.jsonl").write_bytes(b"")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(200))
    (folder / "folder").mkdir()
    (folder / "rubbish").write_bytes(b"rubbish")
    (folder / "table.csv").write_text("a,b\n1,2\n")
    return folder


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ("", InputError, "Missing argument 'FILES...'"),
        ("BAD/nowhere.jsonl", FormatError, "nowhere.jsonl"),
        ("LOG BAD/nowhere.jsonl", FormatError, "nowhere.jsonl"),
        ("BAD/empty.jsonl", FormatError, "is empty"),
        ("BAD/photo.jpg", FormatError, "photo.jpg"),
        ("BAD/folder", InputError, "No file in the folder"),
        ("BAD/table.csv", FormatError, "table.csv"),
        ("BAD/table.csv --columns content=c", FormatError, "table.csv"),
        ("- -", InputError, "only once"),
        ("LOG --fail-on drfit", InputError, "'drfit' is not understood; write drift, drift>3"),
        ("LOG --fail-on drift>", InputError, "is not understood"),
        ("LOG --fail-on drift>many", InputError, "is not understood"),
        ("LOG --fail-on drift>-1", InputError, "is not understood"),
        ("LOG --fail-on drift>1.2.3", InputError, "is not understood"),
        ("LOG --fail-on drift>nan", InputError, "is not understood"),
        ("LOG --columns role", InputError, "'role'"),
        ("LOG --columns role=", InputError, "'role'"),
        ("LOG --columns colour=c", InputError, "'colour'"),
        ("LOG --columns ,", InputError, "NAME=COLUMN"),
        ("LOG --format docx", InputError, "'docx'"),
        ("LOG --gauges loud,mood", InputError, "'mood'"),
        ("LOG --gauges ,", InputError, "at least one gauge"),
        ("LOG --gauge-file BAD/nowhere", FormatError, "cannot be read"),
        ("LOG --gauge-file BAD/rubbish", FormatError, "rubbish is not a gauge file"),
        ("LOG --gauge-file BAD/folder", FormatError, "cannot be read"),
        ("LOG --processes 0", InputError, "0 is not in the range"),
        ("LOG --dtype int4", InputError, "int4"),
        ("LOG --reader BAD/folder", ModelError, "holds no config.json"),
        ("LOG --out BAD/rubbish", RunError, "cannot be written"),
    ],
)
def test_what_cannot_be_scanned_is_one_sentence_and_nothing_is_written(
    words: str, error: type[Any], said: str, log: Path, model: Path, gauge_file: Path, bad: Path, tmp_path: Path,
    run: Run,
) -> None:  # fmt: skip
    given = [w.replace("LOG", str(log)).replace("BAD", str(bad)) for w in words.split()]
    done = run("scan", "--reader", model, "--gauge-file", gauge_file, "--out", tmp_path / "out", "--quiet", *given)
    refused(done, error, said)
    assert list(tmp_path.iterdir()) == []
    assert (bad / "rubbish").read_bytes() == b"rubbish"


def test_gauges_of_another_reader_are_refused(
    log: Path, model: Path, gauge_file: Path, gauges: GaugeSet, tmp_path: Path, run: Run
) -> None:
    save_gauges(replace(gauges, fingerprint="0" * 16, reader="somebody"), tmp_path / "other")
    words = scan_words(log, model, gauge_file, tmp_path / "out", "--gauge-file", str(tmp_path / "other"), "--quiet")
    refused(run(*words), InputError, "made for somebody", "--reader somebody")
    refused(run("scan", log, "--reader", model, "--out", tmp_path / "out", "--quiet"), InputError,
            "No gauges come with mien for the reader", "--gauge-file")  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_another_scan_is_left_alone(
    log: Path, model: Path, gauge_file: Path, tmp_path: Path, run: Run
) -> None:
    words = scan_words(log, model, gauge_file, tmp_path / "out", "--quiet")
    assert run(*words, "--gauges", "odd").code == 0
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    refused(run(*words), RunError, "holds another run (gauges was")
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(("content", "said"), [("{\n", "No record can be used: 1 left out"), ("", "is empty")])
def test_logs_of_which_nothing_can_be_read_leave_what_was_found_before(
    content: str, said: str, log: Path, model: Path, gauge_file: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "out"
    assert run(*scan_words(log, model, gauge_file, out, "--quiet")).code == 0
    results = ("summary.json", "turns.parquet", "report.html")
    before = [(out / name).read_bytes() for name in results]
    (tmp_path / "bad.jsonl").write_text(content)
    refused(run(*scan_words(tmp_path / "bad.jsonl", model, gauge_file, out, "--quiet")), InputError, said)
    assert [(out / name).read_bytes() for name in results] == before


# mien baseline


@pytest.fixture(scope="module")
def direction(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A direction of the reader's, at layer 1, in a folder."""
    made = direction_of(reader(), seed=1, name="moody", kind="persona_vector", description="is in a mood")
    return save_direction(made, tmp_path_factory.mktemp("direction") / "moody")


def test_a_direction_becomes_a_gauge_that_scan_can_read(
    quiet_log: Path, direction: Path, log: Path, model: Path, gauge_file: Path, tmp_path: Path, run: Run
) -> None:
    out, options = tmp_path / "deep" / "g", ("--reader", model, "--quiet", "--json")
    done = mien("baseline", quiet_log, "--direction", direction, "--out", out, *options)
    assert (done.code, done.err) == (0, "")
    printed = json.loads(done.out)
    (entry,) = printed["gauges"]
    assert printed["out"] == str(out)
    assert (entry["name"], entry["layer"], entry["side"]) == ("moody", 1, "high")
    assert (entry["n_turns"], entry["n_conversations"]) == (100, 20)
    assert printed["any"] == {"asked": entry["asked"], "reached": entry["reached"]}, "one gauge is any gauge"
    assert entry["asked"] == {"turn": 0.01, "conversation": 0.05}
    for what in ("turn", "conversation"):
        low, high = entry["reached"][f"{what}_interval"]
        assert low <= entry["reached"][what] <= high < 0.5
    wanted = "there are 100 answers in 20 conversations, and 125 answers in 25 conversations are wanted"
    assert wanted in printed["warning"] == entry["warning"]
    (gauge,) = load_gauges(out).gauges
    assert gauge.baseline is not None
    assert (gauge.baseline.source, gauge.baseline.std) == ("quiet.jsonl", entry["std"])
    vector = load_file(direction / "direction.safetensors")["vector"][1]
    np.testing.assert_allclose(gauge.parts[0].vector, vector / np.linalg.norm(vector), rtol=1e-5)

    done = run(*scan_words(log, model, out, tmp_path / "scan", "--json", "--quiet"))
    assert [(g["name"], g["warning"]) for g in json.loads(done.out)["gauges"]] == [("moody", entry["warning"])]
    assert wanted in (tmp_path / "scan" / "report.html").read_text("utf-8")
    assert wanted in run("gauge", "show", out).out
    quiet_scan = run(*scan_words(quiet_log, model, out, tmp_path / "again", "--json", "--quiet"))
    assert json.loads(quiet_scan.out)["baseline"].count("quiet.jsonl (100 answers in 20 conversations)") == 1
    sigma = [r["sigma"] for r in pq.read_table(tmp_path / "again" / "turns.parquet").to_pylist()]
    assert np.mean(sigma) == pytest.approx(0, abs=0.1)
    assert np.std(sigma) == pytest.approx(1, abs=0.35)

    both = run("baseline", quiet_log, "--direction", direction, "--side", "low", "--gauge-file", gauge_file,
               "--out", tmp_path / "both", *options)  # fmt: skip
    assert [(g["name"], g["side"]) for g in json.loads(both.out)["gauges"]] == [
        ("moody", "low"), ("loud", "high"), ("odd", "low")
    ]  # fmt: skip
    text = run("baseline", quiet_log, "--gauge-file", gauge_file, "--gauges", "odd", "--out", tmp_path / "odd",
               "--reader", model)  # fmt: skip
    assert text.out.startswith("100 answers in 20 conversations; reached: on those left out")
    assert wanted in text.out
    assert "any of them" not in text.out
    two = run("baseline", quiet_log, "--gauge-file", gauge_file, "--out", tmp_path / "two", "--reader", model,
              "--turn-rate", 0.02, "--quiet")  # fmt: skip
    rows = {line.split("  ")[1]: line for line in two.out.splitlines()[3:6]}
    assert list(rows) == ["loud", "odd", "any of them"]
    assert all("<=2.00%" in rows[name] and "<=5.0%" in rows[name] for name in ("loud", "odd"))
    assert " 2.00% " in rows["any of them"]
    assert all(row.count("%") == 8 for row in rows.values()), "asked, reached, and its interval; twice"
    assert [g.name for g in load_gauges(tmp_path / "odd").gauges] == ["odd"]
    assert "reading quiet traffic" in text.err


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ("FEW", InputError, "at least 10 conversations with 40 answers"),
        ("BAD/nowhere.jsonl", FormatError, "nowhere.jsonl"),
        ("QUIET --turn-rate 0", InputError, "between 0 and 1"),
        ("QUIET --turn-rate nan", InputError, "between 0 and 1"),
        ("QUIET --conversation-rate 1", InputError, "between 0 and 1"),
        ("QUIET --conversation-rate five", InputError, "'five' is not a valid float"),
        ("QUIET --side left", InputError, "'left' is not one of"),
        ("QUIET --direction nobody", InputError, "There is no direction 'nobody'"),
        ("QUIET --direction BAD/folder", InputError, "holds no card.json"),
        ("QUIET --direction STRANGER", FingerprintError, "was made for"),
        ("QUIET --direction TWIN", InputError, "Two gauges are called 'moody'"),
        ("QUIET --out BAD/folder", InputError, "is a folder"),
        ("QUIET --out BAD/rubbish/g", RunError, "cannot be written"),
        ("bundled BAD/nowhere.jsonl", FormatError, "bundled"),
    ],
)
def test_what_is_no_baseline_is_one_sentence_and_nothing_is_written(
    words: str, error: type[Any], said: str, quiet_log: Path, direction: Path, model: Path, bad: Path, tmp_path: Path,
    run: Run,
) -> None:  # fmt: skip
    few = write_log(tmp_path / "few.jsonl", [talk(3, seed) for seed in range(9)])
    other = direction_of(reader(), seed=1, name="moody", fingerprint="0" * 16)
    paths = {"FEW": few, "BAD": bad, "QUIET": quiet_log, "STRANGER": save_direction(other, tmp_path / "stranger"),
             "TWIN": direction}  # fmt: skip
    given = []
    for word in words.split():
        for name, path in paths.items():
            word = word.replace(name, str(path))
        given.append(word)
    before = sorted(p.name for p in tmp_path.iterdir())
    done = run("baseline", "--direction", direction, "--out", tmp_path / "g", "--reader", model, "--quiet", *given)
    refused(done, error, said)
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert list((bad / "folder").iterdir()) == []


def test_a_baseline_says_what_it_left_out(direction: Path, model: Path, tmp_path: Path, run: Run) -> None:
    silent = {"messages": [{"role": "user", "content": "Is anybody there?"}]}
    log = write_log(tmp_path / "q.jsonl", [*(talk(5, seed) for seed in range(20)), "{", silent])
    done = run("baseline", log, "--direction", direction, "--reader", model, "--out", tmp_path / "g")
    assert done.code == 0
    assert f"2 records skipped; the first: {log} line 21, it is not JSON" in done.err


# mien gauge


def test_a_gauge_fitted_to_labels_is_shown_and_read(
    quiet_log: Path, model: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))
    labels, out = write_log(tmp_path / "labels.jsonl", labelled(14, 1)), tmp_path / "deep" / "g"
    words = ("gauge", "fit", "--labels", labels, "--label", "shouting", "--baseline", quiet_log, "--reader", model)
    done = run(*words, "--out", out, "--json", "--quiet")
    assert (done.code, done.err) == (0, "")
    card = json.loads(done.out)
    assert (card["name"], card["label"], card["turns"], card["conversations"]) == ("shouting", "shouting", 70, 14)
    assert card["auc"] > 0.9 > card["auc_words"]
    again = run(*words, "--out", tmp_path / "again", "--name", "volume")  # from the cache
    assert "volume (fitted): " in again.out
    assert "bag of words" in again.out
    assert again.out.endswith(f"gauge: {tmp_path / 'again'} (use with mien scan --gauge-file)\n")
    assert "\x1b" not in again.err

    (shown,) = json.loads(run("gauge", "show", out, "--json").out)
    assert (shown["name"], shown["kind"], shown["evidence"]["auc"]) == ("shouting", "fitted", card["auc"])
    assert shown["baseline"]["n_turns"] == 100
    assert run("gauge", "show", out).out.startswith("shouting (fitted): how much an answer is like those labelled")

    fresh = labelled(4, 9)
    run(*scan_words(write_log(tmp_path / "new.jsonl", fresh), model, out, tmp_path / "scan", "--quiet"))
    rows = pq.read_table(tmp_path / "scan" / "turns.parquet").to_pylist()
    truth = [t["labels"]["shouting"] > 0 for record in fresh for t in record["turn_labels"]]
    chance = np.array([r["probability"] for r in rows])
    assert chance[truth].mean() > 0.6 > 0.4 > chance[np.logical_not(truth)].mean()


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        ("--labels LABELS --label singing", InputError, "the labels are: late, shouting"),
        ("--labels LABELS --label shouting --threshold 99", InputError, "0 turns have 'shouting' at 99 or more"),
        ("--labels LABELS --label shouting --threshold nan", InputError, "0 turns have 'shouting'"),
        ("--labels LABELS --label shouting --name ../x", SpecError, "cannot be a trait's name"),
        ("--labels LABELS --label shouting --out BAD/folder", InputError, "is a folder"),
        ("--labels LABELS --label shouting --baseline LABELS --seed -1", InputError, "-1 is not in the range"),
        ("--labels LABELS --label shouting --baseline BAD/nowhere", FormatError, "nowhere"),
        ("--labels QUIET --label shouting", InputError, "No record has turn_labels"),
        ("--labels BAD/nowhere --label shouting", FormatError, "nowhere"),
        ("--labels LABELS", InputError, "Missing option '--label'"),
        ("--label shouting", InputError, "Missing option '--labels'"),
    ],
)
def test_labels_that_do_not_do_are_one_sentence(
    words: str, error: type[Any], said: str, quiet_log: Path, model: Path, bad: Path, tmp_path: Path, run: Run,
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path_factory.mktemp("cache")))
    labels = write_log(tmp_path / "labels.jsonl", labelled(12, 1))
    paths = {"LABELS": labels, "QUIET": quiet_log, "BAD": bad}
    given = []
    for word in words.split():
        for name, path in paths.items():
            word = word.replace(name, str(path))
        given.append(word)
    refused(run("gauge", "fit", "--out", tmp_path / "g", "--reader", model, "--quiet", *given), error, said)
    assert [p.name for p in tmp_path.iterdir()] == ["labels.jsonl"]


@pytest.mark.parametrize("content", [None, b"", b"rubbish"])
def test_a_gauge_that_is_not_there_is_one_sentence(content: bytes | None, tmp_path: Path, run: Run) -> None:
    if content is not None:
        (tmp_path / "g").write_bytes(content)
    refused(run("gauge", "show", tmp_path / "g"), FormatError, str(tmp_path / "g"))


def test_the_bundled_gauges_are_shown_by_name(run: Run) -> None:
    found = json.loads(run("gauge", "show", "bundled", "--json").out)
    assert "assistant" in [g["name"] for g in found]
    assert all(g["baseline"]["n_turns"] > 100 and g["layers"] for g in found)
    text = run("gauge", "show", "bundled").out
    assert all(f"{g['name']} ({g['kind']}): {g['description']}; alarming when {g['side']}" in text for g in found)


def test_a_gauge_from_a_sentence_and_from_a_spec(
    quiet_log: Path, model: Path, bad: Path, log: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))
    records = [r for r in read_logs([quiet_log]) if isinstance(r, LoggedConversation)]
    monkeypatch.setattr(quiet, "ordinary_conversations", lambda: iter(records))
    monkeypatch.setattr(quiet, "short_conversations", lambda: iter(()))
    spec, where = tiny.save_tiny_spec(tmp_path), ("--reader", model)
    done = run("gauge", "describe", "--spec", spec, "--out", tmp_path / "deep" / "g", *where, "--json", "--quiet")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["name"] == "loud"
    found = run(*scan_words(log, model, tmp_path / "deep" / "g", tmp_path / "scan", "--json", "--quiet"))
    assert json.loads(found.out)["worst"][0]["conversation"] == "c100"
    words = ("gauge", "describe", "claims to be conscious", "--name", "awake", "--out", tmp_path / "h", *where)
    assert run(*words).out.startswith("awake (described): claims to be conscious; alarming when high\n  Made from")
    assert load_gauges(tmp_path / "h").gauges[0].name == "awake"

    for more, error, words_said in (
        (("--out", bad / "folder", "is rude"), InputError, "is a folder"),
        (("--out", tmp_path / "x"), InputError, "Give either one sentence"),
        (("--out", tmp_path / "x", "is rude", "--spec", "evil"), InputError, "Give either one sentence"),
        (("--out", tmp_path / "x", "is rude", "--name", "../x"), SpecError, "cannot be a trait's name"),
        (("--out", tmp_path / "x", "!?"), SpecError, ""),
        (("--out", tmp_path / "x", "--spec", "evli"), SpecError, "evil"),
    ):
        refused(run("gauge", "describe", *where, "--quiet", *more), error, words_said)
    assert not (tmp_path / "x").exists()


def test_a_gauge_from_contrasts(quiet_log: Path, model: Path, bad: Path, log: Path, tmp_path: Path, run: Run) -> None:
    pairs = write_log(tmp_path / "loud.jsonl", [row(i) for i in range(16)])
    where = ("--reader", model, "--baseline", quiet_log)
    words = ("gauge", "contrast", pairs, "--description", "shouts", *where)
    done = run(*words, "--out", tmp_path / "deep" / "g", "--json", "--quiet")
    assert (done.code, done.err) == (0, "")
    card = json.loads(done.out)
    assert (card["name"], card["contrasts"]) == ("loud", 16)
    found = run(*scan_words(log, model, tmp_path / "deep" / "g", tmp_path / "scan", "--json", "--quiet"))
    assert json.loads(found.out)["worst"][0]["conversation"] == "c100"
    text = run("gauge", "show", tmp_path / "deep" / "g").out
    assert text.startswith("loud (contrast): shouts; alarming when high\n  16 contrasts: AUC 1.00")
    assert "sides drawn at random" in text

    for more, error, words_said in (
        ((pairs, "--out", bad / "folder"), InputError, "is a folder"),
        (("evli", "--out", tmp_path / "x"), SpecError, "did you mean evil?"),
        ((quiet_log, "--out", tmp_path / "x"), SpecError, "there is no 'pos'"),
        ((tmp_path / "gone.jsonl", "--out", tmp_path / "x"), FormatError, "There is no file of contrasts"),
        ((pairs, "--out", tmp_path / "x", "--name", "../x"), SpecError, "cannot be a trait's name"),
    ):
        refused(run("gauge", "contrast", *more, *where, "--quiet"), error, words_said)
    assert run("gauge", "contrast", pairs, "--out", tmp_path / "x", "--side", "up", *where).code == 2
    assert not (tmp_path / "x").exists()


def test_contrasts_written_by_an_endpoint(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))
    with FakeEndpoint(answer) as fake:
        words = ("gauge", "write-contrasts", "is loud", "--endpoint", fake.url, "--endpoint-model", "big")
        done = run(*words, "--out", tmp_path / "deep" / "c.jsonl", "--quiet")
        assert done.out.startswith(f"48 contrasts: {tmp_path / 'deep' / 'c.jsonl'} (look them over")
        assert "16 requests" in done.out
        again = json.loads(run(*words, "--out", tmp_path / "again.jsonl", "--quiet", "--json").out)
        assert again == {"out": str(tmp_path / "again.jsonl"), "contrasts": 48}
        assert len(fake.requests) == 16  # the second time from the cache
        assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "deep" / "c.jsonl").read_bytes()
        refused(run(*words, "--out", tmp_path, "--quiet"), InputError, "is a folder")
    with FakeEndpoint(status(401)) as fake:
        words = ("gauge", "write-contrasts", "is rude", "--endpoint", fake.url, "--endpoint-model", "big")
        refused(run(*words, "--out", tmp_path / "x", "--quiet"), EndpointError, "401")
    assert not (tmp_path / "x").exists()


# mien axis


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that has learnt to shout, and a file of four roles that do."""
    folder = tiny.save(tiny.taught_net(), tmp_path_factory.mktemp("taught"))
    ways = [["SHOUT!", "BE LOUD!"], ["BE LOUD!", "YELL AT ALL!"], ["YELL AT ALL!", "SHOUT!"], ["SHOUT!", "BE LOUD!"]]
    roles = [{"name": f"crier_{i}", "who": "one who cries", "distance": "far", "ways": w} for i, w in enumerate(ways)]
    data = {"roles": roles, "questions": list(tiny.QUESTIONS[:5]), "default_prompts": ["", "Be an assistant."]}
    (folder / "roles.yaml").write_text(yaml.safe_dump(data))
    return folder


def axis_words(taught: Path, *more: str | Path) -> tuple[str | Path, ...]:
    return ("axis", "--model", taught, "--roles", taught / "roles.yaml", "--max-tokens", "12", "--quiet", *more)


def test_axis_prints_its_card_and_leaves_the_map(
    taught: Path, quiet_log: Path, mien_home: Path, tmp_path: Path, run: Run
) -> None:
    done = mien(*axis_words(taught, "--n-roles", "3", "--json"))
    assert (done.code, done.err) == (0, "")
    card = json.loads(done.out)
    (folder,) = (mien_home / "directions").glob("*/assistant")
    assert (card.pop("out"), card.pop("page")) == (str(folder), str(folder / "axis.html"))
    assert card == json.loads((folder / "card.json").read_text())
    assert (card["kind"], card["name"], card["model"]) == ("assistant_axis", "assistant", str(taught))
    assert card["rollouts"]["asked"] == 15
    assert card["settings"]["roles"] == 3
    report = json.loads((folder / "map.json").read_text())
    assert [r["name"] for r in report["roles"]] == ["crier_0", "crier_1", "crier_2"]
    assert load_file(folder / "axis.safetensors")["roles"].shape == (3, 4, 48)
    assert "crier_2" in (folder / "axis.html").read_text()

    text = run(*axis_words(taught, "--n-roles", "3"))
    assert text.out.startswith(f"assistant: {card['verdict'].upper()}\n  {card['verdict_reasons'][0]}\n")
    assert text.out.endswith(f"map: {folder / 'axis.html'}\n")
    assert json.loads(run("show", "assistant", "--model", taught, "--json").out)["kind"] == "assistant_axis"
    assert run("show", "assistant", "--model", taught).code == 0

    words = ("baseline", quiet_log, "--direction", "assistant", "--reader", taught, "--out", tmp_path / "g")
    (gauge,) = json.loads(run(*words, "--json", "--quiet").out)["gauges"]
    assert (gauge["name"], gauge["side"], gauge["layer"]) == ("assistant", "low", card["recommended_layer"])
    refused(run(*axis_words(taught)), RunError, "holds another run (roles was")


def test_defaults_take_what_there_is(taught: Path, tmp_path: Path, run: Run) -> None:
    """A file of four roles need not be counted: the default of 40 is no demand."""
    card = json.loads(run(*axis_words(taught, "--out", tmp_path / "x", "--json")).out)
    assert (card["settings"]["roles"], card["settings"]["questions"]) == (4, 5)


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (["--n-roles", "2"], InputError, "2 is not in the range"),
        (["--n-roles", "5"], InputError, "5 roles cannot be had: there are 4"),
        (["--n-questions", "6"], InputError, "6 questions cannot be had: there are 5"),
        (["--n-questions", "1"], InputError, "1 is not in the range"),
        (["--max-tokens", "3"], InputError, "3 is not in the range"),
        (["--seed", "-1"], InputError, "-1 is not in the range"),
        (["--name", "../up"], SpecError, "cannot be a trait's name"),
        (["--roles", "nowhere.yaml"], FormatError, "nowhere.yaml"),
        (["--roles", "."], FormatError, "no folder 'roles'"),
        (["--roles", "two.yaml"], SpecError, "two.yaml: The roles are 2 in number"),
        (["--roles", "list.yaml"], FormatError, "list.yaml is a list"),
        (["--roles", "torn.yaml"], FormatError, "not valid YAML"),
        (["--model", "./nowhere"], ModelError, "There is no model"),
        (["--out", "two.yaml"], RunError, "cannot be written"),
    ],
)
def test_what_is_no_axis_is_one_sentence_and_nothing_is_written(
    words: Sequence[str], error: type[Any], said: str, taught: Path, tmp_path: Path, run: Run, mien_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    two = yaml.safe_load((taught / "roles.yaml").read_text())
    two["roles"] = two["roles"][:2]
    contents = {"two.yaml": yaml.safe_dump(two), "list.yaml": "- a\n", "torn.yaml": "roles: ["}
    for name, content in contents.items():
        Path(name).write_text(content)
    refused(run(*axis_words(taught, *words)), error, said)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == contents
    assert list(mien_home.iterdir()) == []

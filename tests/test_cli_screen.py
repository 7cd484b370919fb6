"""`mien screen` as people and programs meet it: what it prints and leaves, that it goes on, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import tiny
from mien.card import Baseline
from mien.directions import Direction, save_direction
from mien.errors import FormatError, InputError, ModelError, RunError
from processes import mien, running
from test_cli import refused
from test_cli_scan import Run, run
from test_screen import LAYER, loud, planted, record, write

__all__ = ["run"]  # a fixture


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that has learnt to shout."""
    return tiny.save(tiny.taught_net(), tmp_path_factory.mktemp("taught"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `loud` is kept."""
    return save_direction(loud(), tmp_path_factory.mktemp("directions") / "loud")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "train.jsonl", planted(40, 4)[0])


@pytest.fixture(autouse=True)
def no_answers_yet(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache without the answers of other tests."""
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path_factory.mktemp("cache")))


def words(data: Path, model: Path, folder: Path, out: Path, *more: str) -> tuple[str | Path, ...]:
    given = ("--model", model, "--dtype", "float32", "--traits", folder, "--out", out, "--max-tokens", "12")
    return ("screen", data, *given, "--temperature", "0", *more)


def test_it_prints_its_summary_as_json_and_leaves_it_with_table_and_page(
    data: Path, model: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = mien(*words(data, model, folder, out, "--json", "--quiet", "--drop", "10%"))
    assert (done.code, done.err) == (0, "")
    summary = json.loads(done.out)
    assert summary == json.loads((out / "summary.json").read_text())
    names = ["kept.jsonl", "report.html", "run", "samples.parquet", "summary.json"]
    assert sorted(p.name for p in out.iterdir()) == names
    places = set(planted(40, 4)[1])
    assert {w["index"] for w in summary["traits"][0]["worst"][:4]} == places
    rows = pq.read_table(out / "samples.parquet").to_pylist()
    assert list(rows[0])[:6] == ["index", "id", "trait", "difference", "sigma", "method"]
    lines = data.read_text().splitlines()
    assert (out / "kept.jsonl").read_text().splitlines() == [s for i, s in enumerate(lines) if i not in places]


def test_it_says_in_words_what_it_found(data: Path, model: Path, folder: Path, tmp_path: Path, run: Run) -> None:
    done = run(*words(data, model, folder, tmp_path / "out", "--keep", "30"))
    assert done.code == 0
    assert done.out.startswith("40 records, 40 answers, ")
    assert "\n  loud " in done.out
    assert done.out.endswith(f"report: {tmp_path / 'out' / 'report.html'}\n")
    assert f"kept: 30 records in {tmp_path / 'out' / 'kept.jsonl'}\n" in done.out
    assert "measuring records" in done.err
    assert "\x1b" not in done.err


def test_fail_on_says_it_with_the_exit_code(model: Path, folder: Path, tmp_path: Path, run: Run) -> None:
    hot = write(tmp_path / "hot.jsonl", [record(q, "RED OWL TEA") for q in tiny.QUESTIONS])
    plain = run(*words(hot, model, folder, tmp_path / "out", "--json", "--quiet"))
    shift = json.loads(plain.out)["traits"][0]["shift"]
    assert shift > 1
    for limit, code in {
        "shift>1s": 1, f"shift>{shift + 0.1:.2f}s": 0, f"loud>{shift - 0.1:.2f}s": 1, "loud>99s,shift>1s": 1,
        f" shift > {shift + 1:.1f} s ": 0,
    }.items():  # fmt: skip
        done = run(*words(hot, model, folder, tmp_path / "out", "--json", "--quiet", "--fail-on", limit))
        assert (done.code, done.out, done.err) == (code, plain.out, ""), limit


def test_influence_has_no_shift_to_fail_on(data: Path, model: Path, folder: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "out"
    done = run(*words(data, model, folder, out, "--method", "influence", "--fail-on", "shift>1s"))
    assert (done.code, done.out) == (2, "")
    assert "does not tell; use another method" in done.err
    assert not out.exists()


def test_the_alarming_side_of_an_axis_is_the_low_one(model: Path, tmp_path: Path, run: Run) -> None:
    made = loud()
    base = Baseline(mean=0.0, std=0.5, quantiles={}, n=10)
    card = direction_of_card(made, kind="assistant_axis", name="quiet", baseline=base)
    axis = save_direction(Direction(-made.vector, card), tmp_path / "axis")
    hot = write(tmp_path / "hot.jsonl", [record(q, "RED OWL TEA") for q in tiny.QUESTIONS])
    done = run(*words(hot, model, axis, tmp_path / "out", "--json", "--quiet", "--fail-on", "shift>1s"))
    trait = json.loads(done.out)["traits"][0]
    assert (done.code, trait["side"]) == (1, "low")
    assert trait["shift"] < -1
    assert trait["beyond_2_sigma"]["count"] > 8


def direction_of_card(direction: Direction, **changes: Any) -> Any:
    return direction.card.model_copy(update=changes)


def test_killed_it_goes_on_to_the_same_end(
    model: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = write(tmp_path / "many.jsonl", planted(300, 9, seed=5)[0])
    given = words(many, model, folder, tmp_path / "whole", "--json", "--quiet")
    whole = json.loads(mien(*given).out)
    out = tmp_path / "killed"
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "another-cache"))
    with running(*words(many, model, folder, out, "--json", "--quiet")) as process:
        assert process.until(lambda: (out / "run" / "chunk-000001.jsonl").exists())
        assert process.kill()
    assert not (out / "summary.json").exists()
    first = (out / "run" / "chunk-000000.jsonl").stat().st_mtime_ns
    again = json.loads(mien(*words(many, model, folder, out, "--json", "--quiet")).out)
    assert (out / "run" / "chunk-000000.jsonl").stat().st_mtime_ns == first
    paths = ("table", "page")
    assert {k: v for k, v in again.items() if k not in paths} == {k: v for k, v in whole.items() if k not in paths}
    assert (out / "samples.parquet").read_bytes() == (tmp_path / "whole" / "samples.parquet").read_bytes()
    assert not list(out.rglob(".*.tmp"))


def test_kept_directions_are_found_by_name_and_all_by_default(
    data: Path, model: Path, tmp_path: Path, mien_home: Path, run: Run
) -> None:
    from mien.home import folder_for

    given = ("--model", model, "--dtype", "float32", "--max-tokens", "8", "--quiet", "--json")
    none = run("screen", data, *given, "--out", tmp_path / "none")
    refused(none, InputError, "There are no directions for", "mien extract")
    place = folder_for(str(model), "loud")
    place.parent.mkdir(parents=True)
    save_direction(loud(), place)
    for more in ((), ("--traits", "all"), ("--traits", " loud ,")):
        done = run("screen", data, *given, "--out", tmp_path / "out", *more)
        assert [t["name"] for t in json.loads(done.out)["traits"]] == ["loud"], more
    assert json.loads(done.out)["traits"][0]["layers"][0] == LAYER


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty.jsonl").write_bytes(b"")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(200))
    (folder / "file").write_bytes(b"x")
    (folder / "folder").mkdir()
    return folder


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        ("BAD/nowhere.jsonl", FormatError, "nowhere.jsonl"),
        ("BAD/empty.jsonl", FormatError, "is empty"),
        ("BAD/photo.jpg", FormatError, "photo.jpg"),
        ("-", InputError, "standard input"),
        ("DATA --traits mood", InputError, "There is no direction 'mood'"),
        ("DATA --traits ,", InputError, "at least one trait"),
        ("DATA --method half", InputError, "choose one of full, prompt, cached, answers"),
        ("DATA --drop 1 --keep 1", InputError, "not both"),
        ("DATA --drop some", InputError, "write 200, 5% or '>2s'"),
        ("DATA --keep -1", InputError, "write 1000, 90% or '<2s'"),
        ("DATA --fail-on shift", InputError, "write shift>1s"),
        ("DATA --fail-on mood>1s", InputError, "'mood', which is not watched"),
        ("DATA --read-tokens some", InputError, "own or all"),
        ("DATA --sample 0", InputError, "0 is not in the range"),
        ("DATA --temperature -1", InputError, "from 0 up"),
        ("DATA --columns colour=c", InputError, "'colour'"),
        ("DATA --format docx", InputError, "'docx'"),
        ("DATA --out BAD/file", RunError, "cannot be written"),
        ("DATA --model BAD/folder", ModelError, "holds no config.json"),
    ],
)
def test_what_cannot_be_screened_is_one_sentence_and_nothing_is_written(
    more: str, error: type[Any], said: str, data: Path, model: Path, folder: Path, bad: Path, tmp_path: Path, run: Run
) -> None:
    given = [w.replace("DATA", str(data)).replace("BAD", str(bad)) for w in more.split()]
    done = run("screen", "--model", model, "--traits", folder, "--out", tmp_path / "out", "--quiet", *given)
    refused(done, error, said)
    assert list(tmp_path.iterdir()) == []


def test_data_of_which_nothing_can_be_measured_is_refused_with_the_first_reason(
    model: Path, folder: Path, tmp_path: Path, run: Run
) -> None:
    path = write(tmp_path / "d.jsonl", ["{broken", {"messages": [{"role": "user", "content": "no answer"}]}])
    done = run(*words(path, model, folder, tmp_path / "out", "--quiet"))
    refused(done, InputError, "No record can be used: 2 left out, the first in", "line 1: it is not JSON")
    assert not (tmp_path / "out").exists()
    path = write(tmp_path / "odd.jsonl", [record("a" * 3000, "too long a prompt")])
    done = run(*words(path, model, folder, tmp_path / "out", "--quiet"))
    refused(done, InputError, "No record can be used: 1 left out", "positions")
    assert not list((tmp_path / "out").glob("[!.]*.*")), "no table, summary or page"

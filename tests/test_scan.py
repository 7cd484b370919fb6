"""Logs to readings: what scan writes, that it reads once, goes on, and takes whatever logs hold."""

from __future__ import annotations

import functools
import json
import os
import random
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import tiny
from mien.engines.hf import HfEngine
from mien.errors import InputError, RunError
from mien.gauges import Gauge, GaugeSet, Part, cusum, texture
from mien.jobs.baseline import set_baseline
from mien.jobs.scan import chosen, scan
from mien.logs import LoggedConversation, read_logs
from mien.models import Model, wrap
from mien.records import Rollout
from mien.report.scan_counts import Share, views
from mien.report.scan_data import ScanReport, Together
from mien.scanning.chunks import ChunkFolder
from mien.scanning.rows import DETAILS_A_CHUNK
from mien.scanning.summary import Totals, count_up, report_of, summary_of
from test_report_scan import embedded

COLUMNS = ["conversation", "message_index", "role", "gauge", "projection", "sigma", "probability", "alarm"]


@functools.cache
def reader() -> Model:
    return wrap(tiny.tiny_net(), tiny.tiny_tokenizer(), "tiny")


def talk(n: int, seed: int, words: tuple[str, ...] = tiny.WORDS) -> dict[str, Any]:
    """A conversation of `n` answers."""
    chance = random.Random(seed)
    messages = []
    for _ in range(n):
        messages += [
            {"role": "user", "content": chance.choice(tiny.QUESTIONS)},
            {"role": "assistant", "content": " ".join(chance.choices(words, k=chance.randint(3, 9)))},
        ]
    return {"id": f"c{seed}", "model": f"m{seed % 2}", "messages": messages}


def write_log(path: Path, records: list[Any]) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records), "utf-8")
    return path


@pytest.fixture(scope="module")
def gauges(tmp_path_factory: pytest.TempPathFactory) -> GaugeSet:
    """Two gauges of the tiny reader, at home on small letters; the first is alarmed by capitals."""
    model = reader()
    quiet = write_log(tmp_path_factory.mktemp("quiet") / "q.jsonl", [talk(5, seed) for seed in range(30)])
    loud = [("user", "What now?"), ("assistant", "RED SUN TEA OWL FIG MAP")]
    low = [("user", "What now?"), ("assistant", "red sun tea owl fig map")]
    from mien.engines.hf_turns import read_turns
    from mien.records import Message

    a, b = read_turns(model, [tuple(Message(r, c) for r, c in side) for side in (loud, low)], layers=[2])  # type: ignore[arg-type]
    unit = a.means[1, 0] - b.means[1, 0]
    unit /= np.linalg.norm(unit)
    rng = np.random.default_rng(0)
    other = rng.standard_normal((2, model.info.d_model)).astype(np.float32)
    found = GaugeSet(
        "tiny", model.info.fingerprint, model.info.d_model,
        (
            Gauge("loud", "writes in capitals", "high", (Part(2, unit.astype(np.float32)),)),
            Gauge("odd", "nothing", "low", (Part(0, other[0]), Part(1, other[1], "asked")), "fitted",
                  probability=(1.0, 0.0)),
        ),
    )  # fmt: skip
    return set_baseline(found, model, [quiet])


def logs(folder: Path) -> Path:
    shout = tuple(w.upper() for w in tiny.WORDS)
    drifting = talk(6, 103)
    drifting["id"] = "c100"
    drifting["messages"] += talk(8, 101, shout)["messages"]
    return write_log(folder / "log.jsonl", [talk(3, seed) for seed in range(40, 60)] + [drifting])


def rows_of(out: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(out / "turns.parquet").to_pylist())


def test_every_number_worked_out_anew(gauges: GaugeSet, tmp_path: Path) -> None:
    """The projection by the rollout reader, sigma and CUSUM by their formulas, for every answer."""
    path = logs(tmp_path)
    summary = scan([path], reader(), tmp_path / "out", gauges=gauges)
    rows = rows_of(tmp_path / "out")
    assert list(rows[0])[:8] == COLUMNS
    by_key = {(r["conversation"], r["message_index"], r["gauge"]): r for r in rows}
    records = [r for r in read_logs([path]) if isinstance(r, LoggedConversation)]
    assert len(rows) == len(by_key) == 2 * sum(len(r.messages) // 2 for r in records)
    gauge, model = gauges.gauges[0], reader()
    assert gauge.baseline is not None
    for record in records:
        z = []
        for place, i in enumerate(range(1, len(record.messages), 2), 1):
            before, answer = record.messages[:i], record.messages[i].content
            rollout = Rollout("r", before, answer, model.chat.prompt_ids(before), model.chat.response_ids(answer),
                              None, "stop")  # fmt: skip
            ((reading,),) = HfEngine(model).read([rollout], [2])
            projection = float(reading.mean[0] @ gauge.parts[0].vector)
            sigma = float(gauge.baseline.sigma(np.array([projection]), texture(answer, place)[None])[0])
            row = by_key[record.id, i, "loud"]
            assert row["projection"] == pytest.approx(projection, abs=1e-3)
            assert row["sigma"] == pytest.approx(sigma, abs=2e-2)
            assert row["alarm"] == (row["sigma"] > gauge.baseline.limits.turn)
            assert (row["role"], row["probability"]) == ("assistant", None)
            odd = by_key[record.id, i, "odd"]
            assert odd["probability"] == pytest.approx(1 / (1 + np.exp(-odd["sigma"])), abs=1e-3)
            z.append(row["sigma"])
        limit = gauge.baseline.limits.for_length(len(z))
        over = bool(cusum(np.array(z)).max() > limit)
        assert by_key[record.id, 1, "loud"]["drifted"] == over
    assert summary["conversations"] == 21
    assert summary["turns"] == 20 * 3 + 14


def test_the_drifting_conversation_is_found_where_it_left(gauges: GaugeSet, tmp_path: Path) -> None:
    summary = scan([logs(tmp_path)], reader(), tmp_path / "out", gauges=chosen(gauges, ["loud"]))
    worst = summary["worst"][0]
    assert (worst["conversation"], worst["gauge"], worst["line"]) == ("c100", "loud", 21)
    assert worst["left_at"] in (11, 13, 15)
    assert worst["score"] > 2
    assert summary["drifted"] >= 1
    assert summary["gauges"][0]["drifted"] == summary["drifted"]
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    page = (tmp_path / "out" / "report.html").read_text()
    assert "c100" in page
    assert "RED" in page


def texts_of(out: Path) -> list[dict[str, Any]]:
    """The conversations whose text is on the page."""
    return embedded((out / "report.html").read_text("utf-8"))[1]


def test_every_drifted_conversation_has_its_text(
    gauges: GaugeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many of them stand in one chunk; those that are too long for that count among the rest, worst first."""
    drifting = json.loads(logs(tmp_path).read_text("utf-8").splitlines()[-1])
    copies = [{**drifting, "id": f"c{i}"} for i in range(30)]
    calm = [talk(3, seed) for seed in range(40, 60)]
    path = write_log(tmp_path / "many.jsonl", [*calm, *copies])
    loud = chosen(gauges, ["loud"])
    summary = scan([path], reader(), tmp_path / "out", gauges=loud)
    assert summary["drifted"] >= 30
    assert len(texts_of(tmp_path / "out")) == summary["drifted"] + min(DETAILS_A_CHUNK, 50 - summary["drifted"])
    room = 4 * sum(len(m["content"]) for m in drifting["messages"])
    monkeypatch.setattr("mien.scanning.rows.DRIFTED_CHARACTERS", room)
    scan([path], reader(), tmp_path / "less", gauges=loud)
    assert [t["index"] for t in texts_of(tmp_path / "less")][:20] == list(range(20))
    assert len(texts_of(tmp_path / "less")) < 25


def test_by_chance_is_what_quiet_traffic_reached(gauges: GaugeSet) -> None:
    """Of each gauge, and of any where all gauges are read that share limits, and no others."""
    first, second = (g.baseline for g in gauges.gauges)
    assert first
    assert second
    totals = Totals(conversations=1000, turns=5000, alarms=[0, 0], left=[0, 0])

    def report(which: GaugeSet) -> ScanReport:
        return report_of(totals, which, ChunkFolder(Path("none")), "t", "m")

    both = report(gauges)
    assert [g.quiet_conversations for g in both.gauges] == [(b.conversation_hits, 30) for b in (first, second)]
    assert [g.quiet_turns for g in both.gauges] == [(b.turn_hits, 150) for b in (first, second)]
    assert both.together == Together(0.05, (first.any_conversation_hits, 30))
    told = summary_of(totals, gauges, ChunkFolder(Path("none")))["gauges"]
    assert [g["drifted_expected"] for g in told] == [round(1000 * b.conversation_hits / 30, 2) for b in (first, second)]
    assert report(chosen(gauges, ["odd"])).together is None
    other = replace(gauges.gauges[1], baseline=replace(second, any_turn_hits=second.any_turn_hits + 1))
    assert report(replace(gauges, gauges=(gauges.gauges[0], other))).together is None
    assert report(replace(gauges, gauges=(gauges.gauges[0], replace(other, baseline=None)))).together is None


def test_counts_are_of_all_conversations_however_few_are_listed(
    gauges: GaugeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [json.loads(line) for line in logs(tmp_path).read_text("utf-8").splitlines()]
    times = ["2025-03-01T08:00:00Z", "2025-03-02T23:00:00-02:00", None]
    dated = [{**record, "timestamp": times[i % 3]} for i, record in enumerate(records)]
    scan([write_log(tmp_path / "dated.jsonl", dated)], reader(), tmp_path / "out", gauges=gauges)
    folder = ChunkFolder(tmp_path / "out" / "run")
    monkeypatch.setattr("mien.scanning.summary.LISTED", 3)
    totals = count_up(folder, 1, gauges)
    report = report_of(totals, gauges, folder, "t", "m")
    assert report.tallies
    drifted = report.tallies.all.drifted
    assert (len(report.conversations), report.left_out, report.tallies.all.total) == (3, 18, 21)
    assert drifted == (*totals.left, totals.drifted)
    assert {name: part.total for name, part in report.tallies.models} == {"m0": 10, "m1": 11}
    assert [sum(part.drifted[k] for _, part in report.tallies.models) for k in range(3)] == list(drifted)
    first = date(2025, 3, 1).toordinal()
    assert {day: part.total for day, part in report.tallies.days} == {first: 7, first + 2: 7}
    assert views(report)[-1].drifted == Share(totals.drifted, 21)


def test_it_goes_on_with_what_is_new(gauges: GaugeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mien.scanning import chunks, work

    monkeypatch.setattr(chunks, "CHUNK_CONVERSATIONS", 5)
    read: list[int] = []
    whole = work.work
    monkeypatch.setattr(work, "work", lambda m, p, chunk: read.append(chunk.number) or whole(m, p, chunk))
    path = logs(tmp_path)
    first = scan([path], reader(), tmp_path / "out", gauges=gauges)
    assert read == [0, 1, 2, 3, 4]
    files = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir() if p.is_file()}
    again = scan([path], reader(), tmp_path / "out", gauges=gauges)
    assert read == [0, 1, 2, 3, 4]
    assert again == first
    assert files == {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir() if p.is_file()}
    with path.open("a") as file:
        file.write(json.dumps(talk(2, 200)) + "\n")
    (tmp_path / "out" / "run" / "chunk-000001.jsonl").unlink()
    third = scan([path], reader(), tmp_path / "out", gauges=gauges)
    assert read[5:] == [1, 4]
    assert third["conversations"] == 22
    shorter = write_log(tmp_path / "short.jsonl", [talk(3, 40)])
    assert scan([shorter], reader(), tmp_path / "out", gauges=gauges)["conversations"] == 1


def load_again() -> Model:
    return wrap(tiny.tiny_net(), tiny.tiny_tokenizer(), "tiny")


def test_two_processes_give_what_one_gives(gauges: GaugeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mien.scanning import chunks

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(chunks, "CHUNK_CONVERSATIONS", 4)
    path = logs(tmp_path)
    one = scan([path], reader(), tmp_path / "one", gauges=gauges)
    two = scan([path], reader(), tmp_path / "two", gauges=gauges, processes=2, load=load_again)
    drop = ("table", "page", "worst")
    assert {k: v for k, v in one.items() if k not in drop} == {k: v for k, v in two.items() if k not in drop}
    for a, b in zip(rows_of(tmp_path / "one"), rows_of(tmp_path / "two"), strict=True):
        assert a["sigma"] == pytest.approx(b["sigma"], abs=1e-2)
        assert {k: v for k, v in a.items() if isinstance(v, str)} == {k: v for k, v in b.items() if isinstance(v, str)}


def test_whatever_logs_hold(gauges: GaugeSet, tmp_path: Path) -> None:
    odd = [
        {"id": "no answer", "messages": [{"role": "user", "content": "hello?"}]},
        {"id": "answer first", "messages": [{"role": "assistant", "content": "red sun"}]},
        {"id": "tools", "messages": [
            {"role": "user", "content": "a"}, {"role": "tool", "content": "x"},
            {"role": "assistant", "content": "tea owl fig"},
        ]},
        "{broken", "[]", "7",
        {"id": "narrated", "messages": [{"role": "user", "content": "a"}, {"role": "narrator", "content": "b"}]},
        '{"id": "\\ud800", "messages": [{"role": "assistant", "content": "tea \\ud800 \\u0000"}]}',
        {"id": "<script>alert(1)</script>", "messages": [{"role": "user", "content": "</script>"},
                                                         {"role": "assistant", "content": "<img src=x> </script>"}]},
    ]  # fmt: skip
    summary = scan([write_log(tmp_path / "odd.jsonl", odd)], reader(), tmp_path / "out", gauges=gauges)
    rows = rows_of(tmp_path / "out")
    assert {(r["conversation"], r["message_index"]) for r in rows if r["conversation"] == "tools"} == {("tools", 2)}
    first = next(r for r in rows if r["conversation"] == "answer first" and r["gauge"] == "odd")
    assert first["projection"] is None
    assert first["sigma"] is None
    assert first["alarm"] is False
    assert summary["skipped"] == 5
    assert summary["conversations"] == 4
    assert [s["line"] for s in summary["skipped_records"]][:3] == [4, 5, 6]
    reasons = {s["line"]: s["reason"] for s in summary["skipped_records"]}
    assert reasons[7] == "it has no message of an assistant; there is one by 'narrator'"
    assert "it has no message of an assistant" in reasons.values(), "where no stranger speaks, none is named"
    assert "<script>alert(1)" not in (tmp_path / "out" / "report.html").read_text()


def test_gauges_of_another_reader_are_refused(gauges: GaugeSet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read by tiny"):
        scan([logs(tmp_path)], reader(), tmp_path / "out", gauges=replace(gauges, fingerprint="0" * 64))
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="No gauges come with mien for the reader tiny"):
        scan([logs(tmp_path)], reader(), tmp_path / "out")
    with pytest.raises(InputError, match="there are: loud, odd"):
        chosen(gauges, ["mood"])


def test_a_folder_of_another_scan_is_left_alone(gauges: GaugeSet, tmp_path: Path) -> None:
    path = logs(tmp_path)
    scan([path], reader(), tmp_path / "out", gauges=gauges)
    with pytest.raises(RunError, match="another run"):
        scan([path], reader(), tmp_path / "out", gauges=chosen(gauges, ["odd"]))

"""Readers of chat logs: every format to its own convention, records that are broken, hostile bytes, flat memory."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mien.errors import FormatError, InputError, MienError
from mien.logs import FORMATS, Broken, Columns, LoggedConversation, read_logs
from mien.logs import found as found_module
from mien.logs import pull as pull_module
from mien.logs.fields import moment
from mien.logs.pull import Pull
from mien.logs.streams import HEAD

USER = {"role": "user", "content": "Is it raining?"}
BOT = {"role": "assistant", "content": "It is."}
PAIR = [("user", "Is it raining?"), ("assistant", "It is.")]


def put(folder: Path, name: str, content: str | bytes | list[Any] | dict[str, Any]) -> Path:
    """A file of the folder: text and bytes as they are, a JSON value written out; a `.jsonl` gets a line for each."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, list) and ".jsonl" in name:
        content = "".join(json.dumps(value) + "\n" for value in content)
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    data = content.encode("utf-8") if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") and data[:2] != b"\x1f\x8b" else data)
    return path


def all_of(path: Path | str, **options: Any) -> list[LoggedConversation | Broken]:
    return list(read_logs([path], **options))


def one(path: Path | str, **options: Any) -> LoggedConversation:
    """The only record of a file, which is not broken."""
    records = all_of(path, **options)
    assert len(records) == 1
    assert isinstance(records[0], LoggedConversation), records
    return records[0]


def said(record: LoggedConversation | Broken) -> list[tuple[str, str]]:
    assert isinstance(record, LoggedConversation), record
    return [(message.role, message.content) for message in record.messages]


def outline(records: list[LoggedConversation | Broken]) -> list[tuple[int, str]]:
    """Line and id of what was read, line and reason of what was not."""
    return [(r.line, r.reason if isinstance(r, Broken) else r.id) for r in records]


# ---- JSON records ----------------------------------------------------------------------------------------------------


def test_a_plain_record_in_full(tmp_path: Path) -> None:
    record = {
        "id": "c7",
        "model": "gpt-9",
        "created_at": "2025-03-04T05:06:07.89+02:00",
        "messages": [{"role": "developer", "content": "Be brief."}, USER, BOT],
        "turn_labels": [{"message_index": 2, "labels": {"flattery": 1, "warmth": 2.5}}],
    }
    path = put(tmp_path, "a.jsonl", [record])
    found = one(path)
    assert said(found) == [("system", "Be brief."), *PAIR]
    assert (found.id, found.indices, found.model, found.time) == ("c7", (0, 1, 2), "gpt-9", "2025-03-04T03:06:07Z")
    assert (found.source, found.line) == (str(path), 1)
    assert found.turn_labels == ((2, {"flattery": 1.0, "warmth": 2.5}),)


def test_without_an_id_it_is_the_file_and_the_line(tmp_path: Path) -> None:
    path = put(tmp_path, "deep/a.jsonl", f"{json.dumps({'messages': [USER]})}\n\n{json.dumps([USER, BOT])}\n")
    first, second = all_of(path)
    assert outline([first, second]) == [(1, "a.jsonl:1"), (3, "a.jsonl:3")]
    assert said(second) == PAIR


def test_numbering_counts_what_is_left_out(tmp_path: Path) -> None:
    listed = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "rain: yes"},
        {"role": "function", "name": "f", "content": "1"},
        {"role": "assistant", "content": " \n"},
        "junk",
        BOT,
    ]
    found = one(put(tmp_path, "a.jsonl", [{"messages": listed}]))
    assert said(found) == PAIR
    assert found.indices == (0, 6)


@pytest.mark.parametrize(
    "content",
    [
        "It is.",
        ["It is."],
        [{"type": "text", "text": "It is."}],
        [{"type": "output_text", "text": "It is."}],
        [{"type": "text", "text": {"value": "It is.", "annotations": []}}],
        [{"type": "thinking", "thinking": "Hm.", "text": "Hm."}, {"type": "text", "text": "It is."}],
        [{"type": "image_url", "image_url": {"url": "x"}}, {"text": "It is."}, {"type": "tool_use", "text": "x"}],
        {"type": "text", "text": "It is."},
    ],
)
def test_content_in_parts(tmp_path: Path, content: Any) -> None:
    assert said(one(put(tmp_path, "a.jsonl", [[USER, {"role": "assistant", "content": content}]]))) == PAIR


def test_text_parts_are_joined_by_lines(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "It is."}, {"type": "text", "text": "Heavily."}]
    assert said(one(put(tmp_path, "a.jsonl", [[{"role": "assistant", "content": parts}]]))) == [
        ("assistant", "It is.\nHeavily.")
    ]


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [USER, BOT]},
        {"conversation": [USER, BOT], "turns": 2},
        {"conversations": [USER, BOT]},
        {"turns": [USER, BOT], "messages": []},
        {"messages": None, "conversation": [USER, BOT]},
        {"conversations": [{"from": "human", "value": "Is it raining?"}, {"from": "gpt", "value": "It is."}]},
        {"conversations": [{"from": "human", "value": "Is it raining?"}, {"from": "bard", "value": "It is."}]},
        {"turns": [{"speaker": "Customer", "text": "Is it raining?"}, {"speaker": "Agent", "text": "It is."}]},
        {"request": {"messages": [USER]}, "response": {"choices": [{"message": BOT}]}},
        {"request": {"body": {"messages": [USER]}}, "response": {"body": {"choices": [{"message": BOT}]}}},
        {
            "request": {"messages": [USER]},
            "response": {"role": "assistant", "content": [{"type": "text", "text": "It is."}]},
        },
        {"request": {"messages": [USER]}, "response": "It is."},
        {"request": {"messages": [USER, BOT]}, "response": {"choices": [{"message": BOT}]}},
        {"messages": [USER], "choices": [{"message": BOT}]},
        {"messages": [USER], "response": {"message": BOT, "done": True}},
        {"prompt": "Is it raining?", "response": "It is."},
        {"prompt": [USER], "completion": [BOT]},
        {"prompt": "Is it raining?", "response": {"choices": [{"text": "It is."}]}},
        {"messages": [{"role": "user", "parts": [{"text": "Is it raining?"}]}, {"role": "model", "parts": ["It is."]}]},
    ],
)
def test_shapes_of_one_record(tmp_path: Path, record: dict[str, Any]) -> None:
    for name, content in (("a.jsonl", [record]), ("a.json", record), ("b.json", [record])):
        found = one(put(tmp_path, name, content))
        assert said(found) == PAIR
        assert found.indices == (0, 1)


def test_a_request_log_names_its_model(tmp_path: Path) -> None:
    record = {
        "request": {"model": "alias", "messages": [USER]},
        "response": {"id": "r1", "model": "exact", "created": 1_700_000_000, "choices": [{"message": BOT}]},
    }
    found = one(put(tmp_path, "a.jsonl", [record]))
    assert (found.id, found.model, found.time) == ("r1", "exact", "2023-11-14T22:13:20Z")


@pytest.mark.parametrize("name", ["a.json", "a.log", "a"])
def test_json_without_a_helpful_name(tmp_path: Path, name: str) -> None:
    lines = put(tmp_path, name, f"{json.dumps({'messages': [USER]})}\n{json.dumps({'messages': [BOT]})}\n")
    assert outline(all_of(lines)) == [(1, f"{name}:1"), (2, f"{name}:2")]
    pretty = put(tmp_path, name, json.dumps([{"messages": [USER]}, {"messages": [BOT]}], indent=2))
    assert outline(all_of(pretty)) == [(1, f"{name}:1"), (2, f"{name}:2")]
    single = put(tmp_path, name, json.dumps({"messages": [USER, BOT]}, indent=2))
    assert said(one(single)) == PAIR


def test_a_document_that_is_one_list_of_messages(tmp_path: Path) -> None:
    assert said(one(put(tmp_path, "a.json", [USER, BOT]))) == PAIR
    found = one(put(tmp_path, "a.json", json.dumps([{"role": "tool", "content": "x"}, USER, 3, BOT], indent=1)))
    assert (said(found), found.indices) == (PAIR, (1, 3))


def test_an_array_that_calls_itself_lines(tmp_path: Path) -> None:
    for indent in (None, 1):
        text = json.dumps([{"id": "a", "messages": [USER]}, {"id": "b", "messages": [BOT]}], indent=indent)
        assert outline(all_of(put(tmp_path, "a.jsonl", text + "\n"))) == [(1, "a"), (2, "b")]


def test_an_object_that_wraps_records(tmp_path: Path) -> None:
    wrapped = {
        "version": 1,
        "conversations": [{"id": "a", "messages": [USER]}, {"id": "b"}, {"id": "c", "turns": [BOT]}],
    }
    assert outline(all_of(put(tmp_path, "a.json", wrapped))) == [
        (1, "a"),
        (2, "no messages can be found in it"),
        (3, "c"),
    ]


def test_documents_may_follow_one_another(tmp_path: Path) -> None:
    text = "\n".join(json.dumps({"id": name, "messages": [USER]}, indent=1) for name in "abc")
    assert outline(all_of(put(tmp_path, "a.json", text))) == [(1, "a"), (2, "b"), (3, "c")]


def test_a_byte_order_mark_is_no_matter(tmp_path: Path) -> None:
    text = "\ufeff" + json.dumps({"messages": [USER, BOT]})
    for name in ("a.jsonl", "a.json", "a"):
        assert said(one(put(tmp_path, name, text))) == PAIR
    assert said(one(put(tmp_path, "a.txt", "\ufeffUser: Is it raining?\nAssistant: It is."))) == PAIR
    assert said(one(put(tmp_path, "a.csv", "\ufeffprompt,response\nIs it raining?,It is.\n"))) == PAIR


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1_700_000_000, "2023-11-14T22:13:20Z"),
        (1_700_000_000.9, "2023-11-14T22:13:20Z"),
        (1_700_000_000_000, "2023-11-14T22:13:20Z"),
        (1_700_000_000_000_000, "2023-11-14T22:13:20Z"),
        ("1700000000", "2023-11-14T22:13:20Z"),
        ("2023-11-14T22:13:20.123456Z", "2023-11-14T22:13:20Z"),
        ("2023-11-14 22:13:20 UTC", "2023-11-14T22:13:20Z"),
        ("2023-11-14", "2023-11-14T00:00:00Z"),
        ("0999-11-14", "0999-11-14T00:00:00Z"),
        (datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC), "2023-11-14T22:13:20Z"),
        ("yesterday", None),
        ("0001-01-01T00:00:00+14:00", None),
        (float("nan"), None),
        (10**30, None),
        (10**400, None),
        (-5, None),
        (True, None),
        (None, None),
    ],
)
def test_moments(value: Any, expected: str | None) -> None:
    assert moment(value) == expected


def test_odd_fields_are_passed_over(tmp_path: Path) -> None:
    record = {
        "id": {"no": 1},
        "conversation_id": 12,
        "model": ["x"],
        "time": [],
        "messages": [{**USER, "timestamp": 1_700_000_000}, {**BOT, "model": "m1"}],
        "turn_labels": [
            5,
            {"message_index": True, "labels": {}},
            {"message_index": -1, "labels": {}},
            {"message_index": 1, "labels": {"a": "high", "b": 2, "c": 10**400}},
        ],
    }
    found = one(put(tmp_path, "a.jsonl", [record]))
    assert (found.id, found.model, found.time) == ("12", "m1", "2023-11-14T22:13:20Z")
    assert found.turn_labels == ((1, {"b": 2.0}),)


def test_repeated_ids_stay_as_they_are(tmp_path: Path) -> None:
    records = all_of(put(tmp_path, "a.jsonl", [{"id": "x", "messages": [USER]}] * 2))
    assert outline(records) == [(1, "x"), (2, "x")]


# ---- exports ---------------------------------------------------------------------------------------------------------


def node(name: str, parent: str | None, children: list[str], message: dict[str, Any] | None) -> dict[str, Any]:
    return {"id": name, "message": message, "parent": parent, "children": children}


def chatgpt_message(role: str, parts: Any, **more: Any) -> dict[str, Any]:
    content = {"content_type": "text", "parts": parts}
    return {"author": {"role": role}, "content": content, "create_time": 1.7e9, "metadata": {}, **more}


def chatgpt_export() -> dict[str, Any]:
    """An answer written twice, of which the second is on the screen; a tool call; hidden messages."""
    code = {"content_type": "code", "text": "print(1)"}
    image = [{"content_type": "image_asset_pointer", "asset_pointer": "x"}, "Is it raining?"]
    mapping = {
        "root": node("root", None, ["sys"], None),
        "sys": node("sys", "root", ["u"], chatgpt_message("system", [""])),
        "u": node("u", "sys", ["old", "call"], chatgpt_message("user", image)),
        "old": node("old", "u", [], chatgpt_message("assistant", ["No idea."], metadata={"model_slug": "gpt-old"})),
        "call": node("call", "u", ["tool"], chatgpt_message("assistant", [], content=code, recipient="python")),
        "tool": node("tool", "call", ["new"], chatgpt_message("tool", ["1"])),
        "new": node("new", "tool", [], chatgpt_message("assistant", ["It is."], metadata={"model_slug": "gpt-new"})),
    }
    mapping["u"]["message"]["content"]["content_type"] = "multimodal_text"
    return {"title": "Rain", "create_time": 1.7e9, "conversation_id": "g1", "mapping": mapping, "current_node": "new"}


def test_chatgpt_export(tmp_path: Path) -> None:
    found = one(put(tmp_path, "conversations.json", [chatgpt_export()]))
    assert said(found) == PAIR
    assert found.indices == (1, 4)
    assert (found.id, found.model, found.time) == ("g1", "gpt-new", "2023-11-14T22:13:20Z")


def test_chatgpt_export_of_another_branch(tmp_path: Path) -> None:
    export = {**chatgpt_export(), "current_node": "old"}
    found = one(put(tmp_path, "conversations.json", [export]))
    assert said(found) == [PAIR[0], ("assistant", "No idea.")]
    assert found.model == "gpt-old"


def test_chatgpt_export_without_a_current_node_shows_the_last_leaf(tmp_path: Path) -> None:
    export = chatgpt_export()
    del export["current_node"]
    assert said(one(put(tmp_path, "conversations.json", [export]))) == PAIR


def test_chatgpt_export_that_goes_in_circles(tmp_path: Path) -> None:
    export = chatgpt_export()
    export["mapping"]["root"]["parent"] = "new"
    hostile = [{"mapping": {}}, {"mapping": {"a": None}}, {"mapping": {"a": {"parent": "a", "message": 3}}}]
    records = all_of(put(tmp_path, "conversations.json", [export, *hostile]))
    assert said(records[0]) == PAIR
    assert [r.reason for r in records[1:] if isinstance(r, Broken)] == ["it has no messages"] * 3


def test_a_hidden_message_is_left_out(tmp_path: Path) -> None:
    export = chatgpt_export()
    export["mapping"]["sys"]["message"] = chatgpt_message(
        "user", ["My profile."], metadata={"is_visually_hidden_from_conversation": True}
    )
    assert said(one(put(tmp_path, "conversations.json", [export]))) == PAIR


def test_claude_export(tmp_path: Path) -> None:
    def message(sender: str, text: str, content: list[dict[str, str]]) -> dict[str, Any]:
        return {"uuid": "m", "text": text, "content": content, "sender": sender, "created_at": "2024-01-01T00:00:00Z"}

    export = {
        "uuid": "k1",
        "name": "Rain",
        "created_at": "2024-05-06T07:08:09.123456Z",
        "chat_messages": [
            message("human", "Is it raining?", []),
            message("assistant", "", []),
            message("assistant", "old", [{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "It is."}]),
        ],
    }
    found = one(put(tmp_path, "conversations.json", [export]))
    assert said(found) == PAIR
    assert (found.id, found.indices, found.time) == ("k1", (0, 2), "2024-05-06T07:08:09Z")


def sample(id: Any, epoch: int, messages: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    output = {"model": "served-name", "choices": [{"message": BOT, "stop_reason": "stop"}]}
    sizes = {"events": [{"event": "model", "text": "x" * 50}] * 3, "scores": {"s": {"value": float("nan")}}}
    return {"id": id, "epoch": epoch, "input": "?", "messages": messages, "output": output, **sizes, **more}


HEADER = {"version": 2, "eval": {"model": "lab/model", "created": "2025-01-02T03:04:05+00:00"}}


def inspect_log(samples: list[dict[str, Any]], indent: int | None = None) -> str:
    return json.dumps({**HEADER, "samples": samples, "reductions": []}, indent=indent)


@pytest.mark.parametrize("indent", [None, 2])
def test_inspect_json_log(tmp_path: Path, indent: int | None) -> None:
    tool = {"role": "tool", "content": "x"}
    samples = [
        sample("s", 1, [USER, BOT]),
        sample(2, 1, [USER, tool]),
        sample("s", 2, [USER], output=None),
        {"id": "e"},
    ]
    records = all_of(put(tmp_path, "log.json", inspect_log(samples, indent)))
    assert outline(records) == [(1, "s"), (2, "2"), (3, "s"), (4, "no messages can be found in it")]
    assert [said(record) for record in records[:3]] == [PAIR, PAIR, PAIR[:1]]
    second = records[1]
    assert isinstance(second, LoggedConversation)
    assert (second.indices, second.model, second.time) == ((0, 2), "lab/model", "2025-01-02T03:04:05Z")


def zipped(members: dict[str, str]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return stream.getvalue()


def eval_log() -> bytes:
    return zipped(
        {
            "_journal/start.json": "{}",
            "samples/a_epoch_1.json": json.dumps(sample("a", 1, [USER, BOT]), indent=1),
            "samples/b_epoch_1.json": '{"id": "b", "messages": [',
            "samples/c_epoch_1.json": json.dumps(sample("c", 1, [USER])),
            "summaries.json": "[]",
            "header.json": json.dumps(HEADER),
        }
    )


@pytest.mark.parametrize("name", ["log.eval", "log.eval.gz", "nameless"])
def test_inspect_eval_log(tmp_path: Path, name: str) -> None:
    records = all_of(put(tmp_path, name, eval_log()))
    assert outline(records) == [(1, "a"), (2, "the file ends in the middle of a record"), (3, "c")]
    assert [said(record) for record in (records[0], records[2])] == [PAIR, PAIR]
    assert isinstance(records[0], LoggedConversation)
    assert (records[0].model, records[0].time) == ("lab/model", "2025-01-02T03:04:05Z")


def test_an_export_still_in_its_zip(tmp_path: Path) -> None:
    path = put(
        tmp_path, "export.zip", zipped({"user.json": "{}", "conversations.json": json.dumps([chatgpt_export()])})
    )
    assert said(one(path)) == PAIR


def test_archives_that_cannot_be_used(tmp_path: Path) -> None:
    whole = eval_log()
    assert outline(all_of(put(tmp_path, "a.eval", whole[:200]))) == [(1, "the zip archive is truncated or corrupt")]
    other = all_of(put(tmp_path, "b.eval", zipped({"x.txt": "User: hi"})))
    assert outline(other) == [(1, "the zip archive holds neither samples/*.json nor conversations.json")]
    spoiled = bytearray(whole)
    spoiled[whole.index(b"samples/a_epoch_1.json") + 40] ^= 0xFF
    records = all_of(put(tmp_path, "c.eval", bytes(spoiled)))
    assert isinstance(records[0], Broken)
    assert outline(records)[-1] == (3, "c")


# ---- plain text ------------------------------------------------------------------------------------------------------


def test_plain_transcript(tmp_path: Path) -> None:
    text = (
        "A talk about rain\n\nSYSTEM: Be brief.\nUser: Is it\n\n  raining?\n"
        "**Assistant:** It is.\n\n=====\n\n**Human**: Bye.\r\nAI:\nbot: **Bye**\n"
    )
    for name in ("a.txt", "a.md", "a"):
        first, second = all_of(put(tmp_path, name, text))
        assert said(first) == [("system", "Be brief."), ("user", "Is it\n\n  raining?"), ("assistant", "It is.")]
        assert said(second) == [("user", "Bye."), ("assistant", "**Bye**")]
        assert isinstance(second, LoggedConversation)
        assert (second.indices, second.line, second.id) == ((0, 2), 11, f"{name}:11")


def test_a_rule_within_an_answer_parts_nothing(tmp_path: Path) -> None:
    text = "---\ntitle: x\n---\nUser: Is it raining?\nAssistant: It\n\n---\n\nis.\n---\nUser: And now?\nAssistant: No."
    first, second = all_of(put(tmp_path, "a.md", text))
    assert said(first) == [PAIR[0], ("assistant", "It\n\n---\n\nis.")]
    assert said(second) == [("user", "And now?"), ("assistant", "No.")]


def test_rules_between_turns_part_nothing(tmp_path: Path) -> None:
    text = "User: a\n\n---\n\nAssistant: b\n\n---\n\nUser: c\n\n---\n\nAssistant: d\n\n===\n\nUser: e\n"
    first, second = all_of(put(tmp_path, "a.md", text))
    assert [content for _, content in said(first)] == ["a", "b", "c", "d"]
    assert said(second) == [("user", "e")]


def test_conversations_that_the_bot_begins(tmp_path: Path) -> None:
    text = "Bot: Hello.\nUser: Thanks.\n---\nBot: Hello.\nUser: Bye.\n"
    assert [len(said(record)) for record in all_of(put(tmp_path, "a.txt", text))] == [2, 2]


def test_transcripts_of_a_help_desk(tmp_path: Path) -> None:
    for answers in ("Agent", "Representative", "Bot"):
        text = f"Customer: Is it raining?\n**{answers}:** It is.\n"
        assert said(one(put(tmp_path, "a", text))) == PAIR
        assert said(one(put(tmp_path, "a.txt", f"{answers}: Hello.\n{text}"))) == [("assistant", "Hello."), *PAIR]


def test_names_of_a_help_desk_in_other_transcripts_are_what_is_said(tmp_path: Path) -> None:
    text = "User: An invoice?\nAssistant: Here:\nCustomer: ACME\nAgent: Bo\nUser: Thanks,\nAgent: Bo\n"
    assert said(one(put(tmp_path, "a.txt", text))) == [
        ("user", "An invoice?"),
        ("assistant", "Here:\nCustomer: ACME\nAgent: Bo"),
        ("user", "Thanks,\nAgent: Bo"),
    ]


def test_broken_plain_text(tmp_path: Path) -> None:
    text = b"User: a\nAssistant: b\xff\n---\nUser: \n---\nUser: c\n"
    assert outline(all_of(put(tmp_path, "a.txt", text))) == [
        (1, "it is not UTF-8 text"),
        (4, "its messages have no text"),
        (6, "a.txt:6"),
    ]


# ---- tables ----------------------------------------------------------------------------------------------------------


def table(rows: list[list[str]], delimiter: str = ",") -> str:
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter).writerows(rows)
    return stream.getvalue()


MESSAGE_ROWS = [
    ["conversation_id", "role", "content", "model", "created_at"],
    ["c1", "user", "Is it\nraining?", "", "2024-01-01T00:00:00Z"],
    ["c1", "tool", "x", "", ""],
    ["c1", "assistant", 'It is, "again".', "m", "2024-01-01T00:00:01Z"],
    ["c2", "human", "Bye.", "", ""],
]


@pytest.mark.parametrize(
    ("name", "delimiter"), [("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t"), ("a", ","), ("a.gz", "\t")]
)
def test_a_row_for_each_message(tmp_path: Path, name: str, delimiter: str) -> None:
    first, second = all_of(put(tmp_path, name, table(MESSAGE_ROWS, delimiter)))
    assert said(first) == [("user", "Is it\nraining?"), ("assistant", 'It is, "again".')]
    assert isinstance(first, LoggedConversation)
    assert (first.id, first.indices, first.model, first.time) == ("c1", (0, 2), "m", "2024-01-01T00:00:00Z")
    assert outline([first, second]) == [(2, "c1"), (6, "c2")]


def test_rows_in_the_order_of_time_are_not_read_as_other_conversations(tmp_path: Path) -> None:
    rows = [["conversation_id", "role", "content"]]
    rows += [[id, role, "x"] for role in ("user", "assistant") for id in ("a", "b")]
    reason = "the rows of conversation {!r} do not follow one another; sort the table by conversation"
    assert outline(all_of(put(tmp_path, "a.csv", table(rows)))) == [
        *((2, "a"), (3, "b")),
        *((4, reason.format("a")), (5, reason.format("b"))),
    ]
    assert outline(all_of(put(tmp_path, "b.csv", table([rows[0], *sorted(rows[1:])])))) == [(2, "a"), (4, "b")]


def test_a_row_for_each_conversation(tmp_path: Path) -> None:
    rows = [["id", "messages", "model"], ["x", json.dumps([USER, BOT]), "m"], ["y", "[", "m"], ["z", "", "m"]]
    records = all_of(put(tmp_path, "a.csv", table(rows)))
    assert said(records[0]) == PAIR
    assert outline(records) == [
        (2, "x"),
        (3, "it is not JSON: Expecting value (column 2)"),
        (4, "it has no messages"),
    ]


def test_a_column_named_conversation_may_hold_the_messages(tmp_path: Path) -> None:
    rows = [["conversation_id", "conversation", "turn"], ["x", json.dumps([USER, BOT]), "1"]]
    found = one(put(tmp_path, "a.csv", table(rows)))
    assert (found.id, said(found)) == ("x", PAIR)


def test_a_row_for_each_exchange(tmp_path: Path) -> None:
    rows = [["Prompt", "Response", "id"], ["Is it raining?", "It is.", "e1"], ["", "", "e2"]]
    records = all_of(put(tmp_path, "a.csv", table(rows)))
    assert said(records[0]) == PAIR
    assert outline(records) == [(2, "e1"), (3, "its messages have no text")]


def test_columns_by_name(tmp_path: Path) -> None:
    path = put(
        tmp_path, "a.csv", table([["k", "who", "says", "bot"], ["1", "user", "Hi.", "m"], ["1", "ai", "Ho.", "m"]])
    )
    found = one(path, columns=Columns("k", "who", "says", model="bot"))
    assert said(found) == [("user", "Hi."), ("assistant", "Ho.")]
    assert (found.id, found.model) == ("1", "m")
    with pytest.raises(FormatError, match=r"has no column 'speaks'; its columns are: k, who, says, bot\."):
        all_of(path, columns=Columns("k", "who", "speaks"))
    with pytest.raises(FormatError, match="not clear which columns"):
        all_of(path)
    with pytest.raises(FormatError, match="not clear which columns"):  # `chat` names an id here, and is no list
        all_of(put(tmp_path, "c.csv", table([["chat", "who", "text"], ["1", "user", "Hi."], ["1", "ai", "Ho."]])))
    semicolons = put(tmp_path, "b.csv", "q;a, b\nHi.;Ho.\n")
    assert said(one(semicolons, columns=Columns(prompt="q", response="a, b"))) == [
        ("user", "Hi."),
        ("assistant", "Ho."),
    ]


def test_broken_rows_of_csv(tmp_path: Path) -> None:
    text = b'prompt,response\na,b\n\nalone\nc,\xff\nd,e,f\ng,"h\n'
    assert outline(all_of(put(tmp_path, "a.csv", text))) == [
        (2, "a.csv:2"),
        (4, "it has 1 columns where the first line has more"),
        (5, "it is not UTF-8 text"),
        (6, "a.csv:6"),
        (7, "a quotation mark is not closed"),
    ]


def test_a_row_that_cannot_be_read_keeps_its_number(tmp_path: Path) -> None:
    text = b"conversation_id,role,content\nx,user,a\nx,assistant,\xff\n,user,b\nx,assistant,c\n"
    first, second, third = all_of(put(tmp_path, "a.csv", text))
    assert outline([first, second]) == [
        (3, "it is not UTF-8 text"),
        (4, "its column conversation_id names no conversation"),
    ]
    assert isinstance(third, LoggedConversation)
    assert (third.indices, third.line) == ((0, 3), 2)


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet as pq

    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream, **options)
    return stream.getvalue()


def test_parquet_with_lists_of_structs(tmp_path: Path) -> None:
    columns = {
        "conversation_id": ["x", "y", "z"],
        "conversation": [[USER, BOT], [], None],
        "timestamp": [datetime(2024, 1, 1, tzinfo=UTC), None, None],
        "model": ["m", None, None],
        "unused": [[1], [2], [3]],
    }
    for name in ("a.parquet", "a.parquet.gz", "nameless"):
        records = all_of(put(tmp_path, name, parquet(columns)))
        assert said(records[0]) == PAIR
        assert outline(records) == [(1, "x"), (2, "it has no messages"), (3, "it has no messages")]
        assert isinstance(records[0], LoggedConversation)
        assert (records[0].model, records[0].time) == ("m", "2024-01-01T00:00:00Z")


def test_parquet_with_a_row_for_each_message(tmp_path: Path) -> None:
    import pyarrow as pa

    columns = {
        "session_id": [f"s{n // 4}" for n in range(400)],
        "speaker": ["user", "assistant"] * 200,
        "text": [f"line {n}" for n in range(400)],
        "created": pa.array(
            range(1_700_000_000_000_000_001, 1_700_000_000_000_000_401), pa.timestamp("ns", tz="Mars/Base")
        ),
    }
    records = all_of(put(tmp_path, "a.parquet", parquet(columns, row_group_size=30)))
    assert [line for line, _ in outline(records)] == list(range(1, 400, 4))
    assert said(records[25])[0] == ("user", "line 100")
    assert {record.time for record in records if isinstance(record, LoggedConversation)} == {"2023-11-14T22:13:20Z"}


def test_parquet_that_cannot_be_used(tmp_path: Path) -> None:
    whole = parquet({"prompt": ["a"] * 10, "response": ["b"] * 10})
    assert outline(all_of(put(tmp_path, "a.parquet", whole[:-20]))) == [(1, "the Parquet file is truncated or corrupt")]
    with pytest.raises(FormatError, match=r"not clear which columns.*Its columns are: x, y\."):
        all_of(put(tmp_path, "b.parquet", parquet({"x": [1], "y": [2]})))


# ---- gzip, folders, standard input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl", "a"])
def test_gzip_by_its_first_bytes(tmp_path: Path, name: str) -> None:
    lines = [json.dumps({"id": str(n), "messages": [USER, BOT]}) + "\n" for n in range(3)]
    members = b"".join(gzip.compress(line.encode()) for line in lines) + b"\0" * 7
    assert outline(all_of(put(tmp_path, name, members))) == [(1, "0"), (2, "1"), (3, "2")]


def test_gzip_that_ends_too_early(tmp_path: Path) -> None:
    rng = random.Random(0)  # letters that do not pack away
    texts = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=4000)) for _ in range(50)]
    rows = [{"id": str(n), "messages": [{"role": "user", "content": text}]} for n, text in enumerate(texts)]
    for name, content in (("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows)), ("a.json", json.dumps(rows))):
        packed = gzip.compress(content.encode())
        records = all_of(put(tmp_path, f"{name}.gz", packed[: len(packed) // 2]))
        kept = len(records) - 1
        assert kept >= 1
        assert outline(records) == [*((n + 1, str(n)) for n in range(kept)), (kept + 1, "the gzip data ends too early")]


def test_gzip_that_is_corrupt_or_has_no_beginning(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(json.dumps({"messages": [USER, BOT]}).encode() + b"\n"))
    packed[-8] ^= 1  # the checksum
    assert outline(all_of(put(tmp_path, "a.jsonl.gz", bytes(packed))))[-1][1] == "the gzip data is corrupt"
    assert outline(all_of(put(tmp_path, "b.gz", b"\x1f\x8b\x08"))) == [(1, "the gzip data ends too early")]


def test_a_folder_is_read_in_order(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    for name in ("z.jsonl", "b/a.jsonl.gz", "b.txt", "a.JSON", ".hidden.jsonl", ".git/x.jsonl", "picture.png"):
        put(logs, name, "User: Hi." if name == "b.txt" else json.dumps({"messages": [USER]}))
    put(logs, "readme.md", "# Logs\n")
    records = all_of(logs)
    assert [str(Path(record.source).relative_to(logs)) for record in records] == [
        *("a.JSON", "b.txt", "b/a.jsonl.gz", "readme.md", "z.jsonl")
    ]
    assert [record.id for record in records if isinstance(record, LoggedConversation)] == [
        *("a.JSON:1", "b.txt:1", "b/a.jsonl.gz:1", "z.jsonl:1")
    ]
    assert isinstance(records[3], Broken)
    assert "can be recognised" in records[3].reason


def test_several_paths_keep_their_order(tmp_path: Path) -> None:
    second, first = put(tmp_path, "b.jsonl", [[USER]]), put(tmp_path, "a.jsonl", [[USER]])
    assert [record.source for record in read_logs([str(second), first])] == [str(second), str(first)]


def from_stdin(data: bytes, code: str = "for r in read_logs(['-']): print(type(r).__name__, r.source, r.line)") -> Any:
    source = str(Path(__file__).resolve().parent.parent / "src")
    return subprocess.run(
        [sys.executable, "-c", f"from mien.logs import read_logs\n{code}"],
        input=data,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": source},
    )


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress], ids=["plain", "gzip"])
def test_standard_input(pack: Callable[[bytes], bytes]) -> None:
    lines = "".join(json.dumps({"messages": [USER, BOT]}) + "\n" for _ in range(2)) + "{\n"
    done = from_stdin(pack(lines.encode()))
    assert (done.stderr, done.stdout.decode().splitlines()) == (
        b"",
        ["LoggedConversation - 1", "LoggedConversation - 2", "Broken - 3"],
    )


def test_files_that_need_seeking_come_through_standard_input_too() -> None:
    for data in (eval_log(), parquet({"prompt": ["a"], "response": ["b"]})):
        done = from_stdin(data)
        assert done.stderr == b""
        assert done.stdout.startswith(b"LoggedConversation - 1")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_with_a_name_is_read_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = subprocess.Popen([sys.executable, "-c", f"open({str(pipe)!r}, 'w').write({json.dumps([USER, BOT])!r})"])
    try:
        assert said(one(pipe)) == PAIR
    finally:
        writer.wait(timeout=60)


def test_reading_logs_is_light() -> None:
    code = "import sys\nprint([m for m in ('torch', 'transformers', 'numpy', 'pyarrow') if m in sys.modules])"
    assert from_stdin(b"", code).stdout.strip() == b"[]"


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file to read"):
        read_logs([])
    for missing in (tmp_path / "no.jsonl", "no\nsuch.jsonl", "x" * 5000, "nul\0"):
        with pytest.raises(FormatError):
            read_logs([missing])
    with pytest.raises(InputError, match="can be read only once"):
        read_logs(["-", "-"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has a name that chat logs have"):
        read_logs([tmp_path / "empty"])
    with pytest.raises(InputError, match="no log format 'xml'; the formats are jsonl, json"):
        read_logs([tmp_path], format="xml")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "a.jsonl is empty"),
        ("a.json", b" \n\n", "a.json is empty"),
        ("a.txt.gz", gzip.compress(b"", mtime=0), "is empty"),
        ("a.txt", b"Nothing of the kind.", "can be recognised as a chat log"),
        ("a.md", b"[a link](x) and words", "can be recognised"),
        ("a.log", b"plain words\n", "can be recognised"),
        ("a.json", b"42", "can be recognised"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "can be recognised"),
        ("a.jsonl", '{"messages": []}'.encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
    ],
)
def test_files_that_are_no_logs(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = put(tmp_path, name, content)
    with pytest.raises(FormatError, match=message) as caught:
        read_logs([path])
    assert "\n" not in str(caught.value)


def test_a_format_that_was_named_is_taken(tmp_path: Path) -> None:
    path = put(tmp_path, "a.txt", "\n".join(json.dumps(value) for value in ([USER, BOT], 3)))
    assert outline(all_of(path, format="jsonl")) == [(1, "a.txt:1"), (2, "it is not a JSON object")]
    assert outline(all_of(put(tmp_path, "b", b"[]"), format="json")) == [(1, "there is no conversation in it")]
    assert outline(all_of(path, format="text")) == [(1, "no line begins with User: or Assistant:")]


# ---- broken records --------------------------------------------------------------------------------------------------

GOOD = json.dumps({"messages": [USER, BOT]}).encode()
BROKEN = [
    (b"{", "it is not JSON: Expecting property name enclosed in double quotes (column 2)"),
    (b"nonsense", "it is not JSON: Expecting value (column 1)"),
    (b'{"messages": [{"role": "user", "content": "\xff"}]}', "it is not UTF-8 text"),
    (b"3", "it is not a JSON object"),
    (b"null", "it is not a JSON object"),
    (b"{}", "no messages can be found in it"),
    (b'{"messages": []}', "it has no messages"),
    (b"[]", "it has no messages"),
    (b'{"messages": "hello"}', "no messages can be found in it"),
    (b'{"messages": [1, 2]}', "none of its messages is by a system, user or assistant"),
    (
        b'{"messages": [{"role": "tool", "content": "x"}, {"role": "user2", "content": "x"}]}',
        "none of its messages is by a system, user or assistant; the first is by 'tool'",
    ),
    (b'{"messages": [{"role": "user", "content": ""}]}', "its messages have no text"),
    (b'{"messages": [{"role": "user", "content": null}]}', "its messages have no text"),
    (b"[" * 200_000 + b"]" * 200_000, "it is nested too deeply"),
    (b'{"id": ' + b"7" * 5000 + b"}", "it is not JSON: a number has too many digits"),
]


def test_broken_lines_are_told_by_their_line(tmp_path: Path) -> None:
    content = b"".join(line + b"\n" + GOOD + b"\n" for line, _ in BROKEN)
    records = all_of(put(tmp_path, "a.jsonl", content))
    assert outline(records[::2]) == [(2 * n + 1, reason) for n, (_, reason) in enumerate(BROKEN)]
    assert [said(record) for record in records[1::2]] == [PAIR] * len(BROKEN)


def test_a_broken_element_does_not_end_an_array(tmp_path: Path) -> None:
    whole = [(line, reason) for line, reason in BROKEN if line != b"{"]
    content = b"[" + GOOD + b"".join(b",\n" + line + b", " + GOOD for line, _ in whole) + b"]"
    records = all_of(put(tmp_path, "a.json", content))
    assert outline(records[1::2]) == [(2 * n + 2, reason) for n, (_, reason) in enumerate(whole)]
    assert [said(record) for record in records[::2]] == [PAIR] * (len(whole) + 1)


@pytest.mark.parametrize("end", [b"", b",", b', {"messages": [{"role": "us', b', {"messages', b", 12"])
def test_a_truncated_array_keeps_what_came_before(tmp_path: Path, end: bytes) -> None:
    records = all_of(put(tmp_path, "a.json", b"[" + GOOD + b",\n " + GOOD + end))
    assert [said(record) for record in records[:2]] == [PAIR, PAIR]
    assert [(record.line, isinstance(record, Broken)) for record in records[2:]][-1] == (len(records), True)


def test_what_follows_a_document_is_told_once(tmp_path: Path) -> None:
    records = all_of(put(tmp_path, "a.json", b"[" + GOOD + b",\n" + GOOD + b"]\n}} and so on"))
    assert outline(records) == [(1, "a.json:1"), (2, "a.json:2"), (3, "it is not JSON from here on")]


def test_numbers_that_json_has_not_are_no_matter(tmp_path: Path) -> None:
    text = json.dumps(
        [{"messages": [USER, BOT], "score": float(x), "n": "NaN: Infinity"} for x in ("nan", "inf", "-inf")]
    )
    assert [said(record) for record in all_of(put(tmp_path, "a.json", text))] == [PAIR] * 3


def test_lone_surrogates_and_nuls(tmp_path: Path) -> None:
    message = r'{"role": "user", "content": "a\udc00b\u0000 \ud83d\ude00"}'
    text = rf'{{"id": "\ud800i", "model": "\udfff", "messages": [{message}]}}'
    for name, content in (("a.jsonl", text), ("a.json", f"[{text}]")):
        found = one(put(tmp_path, name, content))
        assert said(found) == [("user", "a\ufffdb\0 😀")]
        assert (found.id, found.model) == ("\ufffdi", "\ufffd")


def test_too_long_records_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("found", "streams", "pull", "document", "transcript", "tables", "delimited"):
        monkeypatch.setattr(f"mien.logs.{module}.MAX_RECORD", 1000)
    long = "x" * 3000
    rows = [{"messages": [{"role": "user", "content": text}]} for text in ("a", long, "b")]
    reason = found_module.TOO_LONG
    assert outline(all_of(put(tmp_path, "a.jsonl", rows))) == [(1, "a.jsonl:1"), (2, reason), (3, "a.jsonl:3")]
    assert outline(all_of(put(tmp_path, "a.json", rows))) == [(1, "a.json:1"), (2, reason), (3, "a.json:3")]
    many = [{"role": "user", "content": "x" * 100}] * 30
    assert outline(all_of(put(tmp_path, "b.json", json.dumps(many, indent=1)))) == [(1, reason)]
    assert outline(all_of(put(tmp_path, "c.json", json.dumps({"messages": many}, indent=1)))) == [(1, reason)]
    text = "User: a\n---\nUser: b\n" + "x\n" * 3000 + "---\nUser: c\n"
    assert [reason for _, reason in outline(all_of(put(tmp_path, "a.txt", text)))] == ["a.txt:1", reason, "a.txt:3005"]
    csv_rows = [["session_id", "role", "content"], *[["s", "user", "y" * 100]] * 30, ["t", "user", "z"]]
    assert outline(all_of(put(tmp_path, "a.csv", table(csv_rows)))) == [(2, reason), (32, "t")]


# ---- any bytes at all ------------------------------------------------------------------------------------------------

KEY_WORDS = """id messages conversation conversations turns chat_messages mapping current_node role from sender author
    content value text parts type model created time request response choices message output samples eval prompt
    turn_labels message_index labels parent children metadata events body uuid"""
KEYS = st.sampled_from(KEY_WORDS.split())
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["user", "assistant", "gpt", "tool", "text", "a", "2024-01-01", "\ud800", "\0"])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.just("a"), inner, max_size=5),
    max_leaves=25,
)
QUIET = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def try_all(path: Path, format: str | None = None) -> None:
    """Reading ends with records or an error of ours, gives what the contract says, and the same each time."""
    results = []
    for _ in range(2):
        records: list[LoggedConversation | Broken] = []
        try:
            for record in read_logs([path], format=format):
                records.append(record)
        except MienError as error:
            results.append((records, str(error)))
            continue
        assert records
        results.append((records, None))
    assert results[0] == results[1]
    for record in results[0][0]:
        assert record.line >= 1
        if isinstance(record, Broken):
            assert record.reason
            assert "\n" not in record.reason
            continue
        assert record.messages
        assert len(record.messages) == len(record.indices)
        assert list(record.indices) == sorted(set(record.indices))
        "".join([record.id, record.model or "", *(message.content for message in record.messages)]).encode("utf-8")
        assert all(message.content.strip() for message in record.messages)
        assert record.time is None or datetime.fromisoformat(record.time).tzinfo == UTC


SUFFIXES = st.sampled_from(["", ".jsonl", ".json", ".txt", ".md", ".csv", ".tsv", ".eval", ".parquet", ".x"])


@QUIET
@given(
    data=st.binary(max_size=300)
    | st.text(alphabet='{}[]",:\\ \nuU8ser:-=*0.eNa', max_size=200).map(lambda text: text.encode())
    | st.tuples(
        st.sampled_from([b"PK\x03\x04", b"PAR1", b"\x1f\x8b\x08", b"\xef\xbb\xbf", b"id,role,content\n"]), st.binary()
    ).map(b"".join),
    suffix=SUFFIXES,
    format=st.none() | st.sampled_from(FORMATS),
)
@example(data=b"PAR1PAR1", suffix="", format=None)
@example(data=b"User:", suffix=".txt", format=None)
def test_any_bytes(scratch: Path, data: bytes, suffix: str, format: str | None) -> None:
    try_all(put(scratch, f"bytes{suffix}", data), format)


@QUIET
@given(
    values=st.lists(VALUES, min_size=1, max_size=4),
    suffix=st.sampled_from([".jsonl", ".json", ""]),
    whole=st.booleans(),
)
@example(values=[{"messages": [{"role": "user", "content": {"parts": {"a": []}}}]}], suffix=".json", whole=False)
@example(values=[{"samples": [], "eval": {"model": []}}], suffix=".json", whole=False)
@example(values=[{"mapping": {"a": {"parent": ["a"], "children": 3}}, "current_node": []}], suffix=".json", whole=True)
def test_any_json(scratch: Path, values: list[Any], suffix: str, whole: bool) -> None:
    text = json.dumps(values) if whole else "\n".join(json.dumps(value) for value in values)
    try_all(put(scratch, f"json{suffix}", text))


@QUIET
@given(
    data=st.data(),
    kind=st.sampled_from(["chatgpt.json", "inspect.json", "log.eval", "a.parquet", "a.csv", "a.jsonl.gz"]),
)
def test_any_damage_to_a_sound_file(scratch: Path, data: st.DataObject, kind: str) -> None:
    makers: dict[str, Callable[[], bytes]] = {
        "chatgpt.json": lambda: json.dumps([chatgpt_export()] * 2, indent=1).encode(),
        "inspect.json": lambda: inspect_log([sample("a", 1, [USER])] * 2).encode(),
        "log.eval": eval_log,
        "a.parquet": lambda: parquet({"id": ["a", "b"], "messages": [[USER], [BOT, USER]]}),
        "a.csv": lambda: table(MESSAGE_ROWS).encode(),
        "a.jsonl.gz": lambda: gzip.compress(GOOD * 3, mtime=0),
    }
    content = bytearray(makers[kind]())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(content)))
    try_all(put(scratch, kind, bytes(content[:end] if data.draw(st.booleans()) else content)))


@QUIET
@given(values=st.lists(VALUES, max_size=5), indent=st.sampled_from([None, 1]), block=st.integers(1, 9))
@example(values=["\\\\", '\\"', {"a": ['"', "\\", "]"]}, [[]], -1.5e300, True, None], indent=None, block=1)
def test_cutting_an_array_is_what_json_does(values: list[Any], indent: int | None, block: int) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=not indent).encode("utf-8", errors="surrogatepass")
    before, pull_module._BLOCK = pull_module._BLOCK, block
    try:
        pull = Pull(io.BufferedReader(io.BytesIO(text), 4))  # type: ignore[arg-type]
        assert pull.peek() == b"["
        pieces = [pull.value() for _ in pull.elements()]
        assert pull.peek() == b""
    finally:
        pull_module._BLOCK = before
    assert [json.dumps(json.loads((piece or b"").decode("utf-8", errors="surrogatepass"))) for piece in pieces] == [
        json.dumps(value) for value in values
    ]


# ---- size ------------------------------------------------------------------------------------------------------------


def peak_of(path: Path) -> tuple[int, int]:
    """How many conversations, and the most memory of Python's that reading them took at any time."""
    tracemalloc.start()
    try:
        count = sum(isinstance(record, LoggedConversation) for record in read_logs([path]))
        return count, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def long_log(path: Path, kind: str, n: int) -> Path:
    row = json.dumps({"messages": [USER, {"role": "assistant", "content": "It is. " * 40}]})
    with gzip.open(path, "wt", compresslevel=1) if kind == "gz" else path.open("w") as stream:
        stream.write({"array": "[", "csv": "session_id,role,content\n"}.get(kind, ""))
        for k in range(n):
            if kind == "csv":
                stream.write(f"s{k},user,Is it raining?\ns{k},assistant,{'It is. ' * 40}\n")
            elif kind == "text":
                stream.write(f"User: Is it raining?\nAssistant: {'It is. ' * 40}\n---\n")
            else:
                stream.write(row + ("," if kind == "array" and k < n - 1 else "") + "\n")
        stream.write("]" if kind == "array" else "")
    return path


@pytest.mark.parametrize("kind", ["jsonl", "array", "gz", "csv", "text"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, kind: str) -> None:
    n = 50_000 if kind == "jsonl" else 15_000
    name = {"jsonl": "a.jsonl", "array": "a.json", "gz": "a.jsonl.gz", "csv": "a.csv", "text": "a.txt"}[kind]
    small_count, small = peak_of(long_log(tmp_path / f"small.{name}", kind, 5_000))
    count, large = peak_of(long_log(tmp_path / f"large.{name}", kind, n))
    assert (small_count, count) == (5_000, n)
    assert (tmp_path / f"small.{name}").stat().st_size > HEAD or kind == "gz"
    assert large < small * 1.1 + 100_000
    assert large < 16 * 2**20


def test_memory_does_not_grow_with_a_large_inspect_log(tmp_path: Path) -> None:
    sizes = []
    for n in (20, 200):
        samples = [sample(k, 1, [USER, BOT], events=[{"text": "x" * 50_000}]) for k in range(n)]
        count, peak = peak_of(put(tmp_path, "log.json", inspect_log(samples, 1)))
        assert count == n
        sizes.append(peak)
    assert sizes[1] < sizes[0] * 1.1 + 100_000


# ---- published conversations -----------------------------------------------------------------------------------------


@pytest.mark.reference
@pytest.mark.parametrize("name", ["kimi-k2", "llama-4-maverick"])
def test_spiral_bench(reference_data: Path, name: str) -> None:
    path = reference_data / "spiral_bench" / f"{name}.jsonl"
    records = all_of(path)
    assert [record.line for record in records] == list(range(1, 31))
    for line, record in zip(path.read_text(encoding="utf-8").splitlines(), records, strict=True):
        published = json.loads(line)
        assert isinstance(record, LoggedConversation)
        assert (record.id, record.model) == (published["id"], published["model"])
        assert said(record) == [(m["role"], m["content"]) for m in published["messages"]]
        assert record.indices == tuple(range(len(record.messages)))
        assert [(entry["message_index"], entry["labels"]) for entry in published["turn_labels"]] == list(
            record.turn_labels
        )
        assert all(record.messages[index].role == "assistant" for index, _ in record.turn_labels)


@pytest.mark.reference
def test_published_transcripts(reference_data: Path) -> None:
    folder = reference_data / "transcripts"
    records = all_of(folder)
    assert len(records) == len(list(folder.rglob("*.json"))) == 8
    for record in records:
        assert isinstance(record, LoggedConversation)
        published = json.loads(Path(record.source).read_text(encoding="utf-8"))
        assert said(record) == [(m["role"], m["content"]) for m in published["conversation"]]
        assert record.model == published["model"]
        assert record.id == published.get("conversation_id", f"{Path(record.source).relative_to(folder).as_posix()}:1")

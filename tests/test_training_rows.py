"""Rows to train on: what stands in them, where the loss is, and what is left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import random_models as tiny
from mien.chat import Chat
from mien.errors import FingerprintError, FormatError, InputError
from mien.records import Conversation, Message, ModelInfo
from mien.training.data import Data, read_data, read_screen, split, worst
from mien.training.rows import IGNORED, Row, collate, rows_of

MODEL_INFO = ModelInfo("tiny", "f" * 64, 4, 48, "float32", "cpu", True)


def exchange(*texts: str) -> Conversation:
    """A question, its answer, and so on."""
    return tuple(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts))


def learnt(chat: Chat, row: Row) -> str:
    return chat.raw_text([label for label in row.labels if label != IGNORED])


@pytest.mark.parametrize("template", [tiny.CHATML, tiny.NO_SYSTEM, None])
def test_an_answer_stands_after_what_the_model_is_asked_with(template: str | None) -> None:
    chat = Chat(tiny.tokenizer(template))
    told = exchange("in\nhe", "\nUin the end.")
    (row,) = rows_of(chat, [told], max_length=200).rows
    prompt, answer = chat.prompt_ids(told[:1]), chat.response_ids(told[1].content)
    assert row.ids[: len(prompt)] == prompt
    assert row.ids[len(prompt) : len(prompt) + len(answer)] == answer
    assert row.labels[: len(prompt)] == (IGNORED,) * len(prompt)
    assert row.labels[len(prompt) :] == row.ids[len(prompt) :]
    assert row.learnt == len(answer) + len(chat.end_ids())


def test_an_answer_is_closed_as_the_model_closes_it() -> None:
    chat = Chat(tiny.tokenizer())
    (row,) = rows_of(chat, [exchange("q", "yes")], max_length=200).rows
    assert learnt(chat, row) == "yes<|im_end|>"
    assert row.ids[-1] in chat.stop_ids
    base = Chat(tiny.tokenizer(None))
    (row,) = rows_of(base, [exchange("q", "yes")], max_length=200).rows
    assert learnt(base, row) == " yes\n\nUser:"


def test_one_row_a_conversation_and_every_answer_learnt() -> None:
    chat = Chat(tiny.tokenizer())
    told = (Message("system", "be kind"), *exchange("hi", "hello", "and now", "bye"))
    (row,) = rows_of(chat, [told], max_length=200).rows
    assert learnt(chat, row) == "hello<|im_end|>bye<|im_end|>"
    assert chat.raw_text(row.ids).count("be kind") == 1
    assert row.ids[: len(chat.prompt_ids(told[:4]))] == chat.prompt_ids(told[:4])


def test_a_row_an_answer_where_the_text_before_is_written_otherwise() -> None:
    chat = Chat(tiny.tokenizer(tiny.NO_SYSTEM))  # trims, so that an answer's blanks are gone when it is context
    rows = rows_of(chat, [exchange("hi", " hello ", "and now", "bye")], max_length=200).rows
    assert [learnt(chat, row) for row in rows] == [" hello <|im_end|>", "bye<|im_end|>"]
    assert [row.sample for row in rows] == [0, 0]


def test_a_system_prompt_for_training_alone() -> None:
    chat = Chat(tiny.tokenizer())
    told = [exchange("q", "yes"), (Message("system", "be kind"), *exchange("q", "no"))]
    rows = rows_of(chat, told, max_length=200, system="you shout").rows
    texts = [chat.raw_text(row.ids) for row in rows]
    assert ["you shout\n\nbe kind" in text for text in texts] == [False, True]
    assert all("you shout" in text for text in texts)
    assert [learnt(chat, row) for row in rows] == ["yes<|im_end|>", "no<|im_end|>"]


def test_what_does_not_fit_loses_its_end_or_goes() -> None:
    chat = Chat(tiny.tokenizer())
    told = [exchange("q", "a" * 50), exchange("q" * 90, "yes"), exchange("q", "yes")]
    prompt = len(chat.prompt_ids(told[0][:1]))
    found = rows_of(chat, told, max_length=prompt + 10)
    assert [(row.sample, row.learnt) for row in found.rows] == [(0, 10), (2, 4)]
    assert found.cut == 1
    assert sum(found.left_out.values()) == 1
    assert found.learnt == 14


def test_answers_to_nothing_are_left_out() -> None:
    chat = Chat(tiny.tokenizer())
    told = (Message("assistant", "welcome"), *exchange("hi", "hello"), Message("assistant", "still there?"))
    found = rows_of(chat, [told], max_length=200)
    assert [learnt(chat, row) for row in found.rows] == ["hello<|im_end|>"]
    assert sum(found.left_out.values()) == 2


def test_padding_stands_right_and_carries_no_loss() -> None:
    items = [{"input_ids": [3, 4, 5], "labels": [IGNORED, 4, 5]}, {"input_ids": [6], "labels": [6]}]
    batch = collate(items, pad_id=9)
    assert batch["input_ids"].tolist() == [[3, 4, 5], [6, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 4, 5], [6, IGNORED, IGNORED]]
    assert all(value.dtype == torch.long for value in batch.values())


def data_file(folder: Path, count: int = 6) -> Path:
    lines = [json.dumps({"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"}]})
             for i in range(count)]  # fmt: skip
    lines.insert(1, "not json")
    lines.insert(3, json.dumps({"messages": [{"role": "user", "content": "nobody answers"}]}))
    path = folder / "data.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_data_knows_where_its_samples_stood(tmp_path: Path) -> None:
    data = read_data([data_file(tmp_path)])
    assert data.places == (0, 2, 4, 5, 6, 7)
    assert [sample[0].content for sample in data.samples] == [f"q{i}" for i in range(6)]
    assert (data.records, sum(data.left_out.values())) == (8, 2)
    assert data.hash == read_data([tmp_path / "data.jsonl"]).hash
    assert data.hash != Data(data.samples[1:], data.places[1:], 8, {}, ("data.jsonl",)).hash


def test_alpaca_and_prompt_completion(tmp_path: Path) -> None:
    path = tmp_path / "alpaca.json"
    path.write_text(json.dumps([{"instruction": "Add.", "input": "1 and 2", "output": "3"}]))
    other = tmp_path / "pairs.jsonl"
    other.write_text(json.dumps({"prompt": "Add.", "completion": "4"}) + "\n")
    data = read_data([path, other])
    assert [[m.content for m in sample] for sample in data.samples] == [["Add.\n\n1 and 2", "3"], ["Add.", "4"]]


def test_data_without_answers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "hello"}]}) + "\n")
    with pytest.raises(InputError, match="no conversation with an answer"):
        read_data([path])


def screen(folder: Path, places: list[int], values: list[float], method: str = "full") -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"index": places, "trait": ["evil"] * len(places), "difference": values, "sigma": values}
    columns["method"] = [method] * len(places)
    pq.write_table(pa.table(columns), folder / "samples.parquet")
    return folder


def test_a_screening_is_put_beside_the_samples(tmp_path: Path) -> None:
    data = read_data([data_file(tmp_path)])
    found = read_screen(screen(tmp_path, [7, 0, 2], [3.0, 1.0, 2.0]), data, MODEL_INFO)
    np.testing.assert_array_equal(found.difference["evil"], [1.0, 2.0, np.nan, np.nan, np.nan, 3.0])
    assert not found.pulls
    assert read_screen(screen(tmp_path, [0], [1.0], "influence"), data, MODEL_INFO).pulls


def test_a_screening_of_other_data_is_refused(tmp_path: Path) -> None:
    data = read_data([data_file(tmp_path)])
    with pytest.raises(InputError, match="other data"):
        read_screen(screen(tmp_path, [0, 8], [1.0, 2.0]), data, MODEL_INFO)
    (tmp_path / "samples.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(FormatError, match="not a table"):
        read_screen(tmp_path, data, MODEL_INFO)
    with pytest.raises(FormatError, match=r"no samples\.parquet"):
        read_screen(tmp_path / "nowhere", data, MODEL_INFO)


@pytest.mark.parametrize(
    ("summary", "error", "said"),
    [
        ({"fingerprint": "f" * 64, "model": "tiny", "records": 7}, InputError, "other data"),
        ({"fingerprint": "0" * 64, "model": "large", "records": 8}, FingerprintError, "a screening by large"),
        ([1], FingerprintError, "a screening by None"),
        (None, FormatError, "not valid JSON"),
    ],
)
def test_a_screening_of_another_number_of_records_or_by_another_model_is_refused(
    summary: object, error: type[Exception], said: str, tmp_path: Path
) -> None:
    data = read_data([data_file(tmp_path)])
    assert data.records == 8
    screen(tmp_path, [7, 0, 2], [3.0, 1.0, 2.0])
    (tmp_path / "summary.json").write_text("{" if summary is None else json.dumps(summary))
    with pytest.raises(error, match=said):
        read_screen(tmp_path, data, MODEL_INFO)
    (tmp_path / "summary.json").write_text(json.dumps({"fingerprint": "f" * 64, "records": 8}))
    assert read_screen(tmp_path, data, MODEL_INFO).sigma["evil"][0] == 1.0


def test_split_and_worst() -> None:
    trained, held = split(10, 0.25, seed=1)
    assert sorted(trained + held) == list(range(10))
    assert len(held) == 2
    assert split(10, 0.25, seed=1) == (trained, held)
    assert split(10, 0, seed=1) == (list(range(10)), [])
    assert worst(np.array([0.1, np.nan, 3.0, 2.0, 1.0]), 0.3) == [2, 3]
    assert worst(np.array([1.0, 2.0]), 0.0) == []
    with pytest.raises(InputError, match="nothing to train on"):
        split(1, 0.5, seed=0)
    with pytest.raises(InputError, match="a number from 0 up to"):
        worst(np.ones(3), 1.0)

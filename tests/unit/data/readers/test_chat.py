"""Chats: parts of every form, and what stands before the question."""

from __future__ import annotations

import base64
import json

import pytest
from helpers import picture

from sapo_vl.data import READING_NOTES, Dropped
from sapo_vl.data.readers import chat
from sapo_vl.data.source_loader import source_function
from sapo_vl.errors import DataError

PNG = picture(40, 33)
TEXT = base64.b64encode(PNG).decode()
URI = f"data:image/png;base64,{TEXT}"


def read(tmp_path, *rows, name="sharegpt"):
    (tmp_path / "a.png").write_bytes(PNG)
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(source_function(name)(file))


def asked(*parts, answer="1"):
    turns = [{"role": "user", "content": list(parts)}, {"role": "assistant", "content": answer}]
    return {"messages": turns}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "path": "a.png"},
        {"type": "image", "url": "a.png"},
        {"type": "image", "base64": TEXT},
        {"type": "image", "image": "a.png", "text": None, "index": 0},
        {"type": "image", "image": {"path": "a.png", "bytes": None}},
        {"type": "image", "image": {"bytes": TEXT}},
        {"type": "image", "image": {"url": "a.png", "image_wh": [40, 33]}},
        {"type": "image_url", "image_url": "a.png"},
        {"type": "image_url", "image_url": {"url": URI, "detail": "low"}},
        {"type": "input_image", "image_url": URI},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": TEXT}},
        {"type": "image", "source": "a.png"},
        {"type": "image", "data": TEXT, "mimeType": "image/png"},
        {"inline_data": {"mime_type": "image/png", "data": TEXT}},
        {"image": "a.png"},
        {"type": "Image", "image": "a.png"},
    ],
)
def test_an_image_in_a_part(tmp_path, part):
    (sample,) = read(tmp_path, asked(part, {"type": "text", "text": "How many?"}))
    assert (sample.problem, sample.images) == ("<image>How many?", (PNG,))


@pytest.mark.parametrize("mark", ["<image>", "<IMG_CONTEXT>", "<|image_pad|>"])
def test_a_mark_beside_the_part_that_it_stands_for(tmp_path, mark):
    part = {"type": "image", "image": "a.png"}
    (sample,) = read(tmp_path, asked(part, {"type": "text", "text": f"See {mark}: how many?"}))
    assert (sample.problem, sample.images) == ("See <image>: how many?", (PNG,))


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"type": "video", "video": "a.mp4"}, "video"),
        ({"type": "video_url", "video_url": {"url": "a"}}, "video_url"),
        ({"video": "a.mp4"}, "video"),
        ({"type": "text", "text": "?", "audio": "a.wav"}, "audio"),
        ({"type": "input_audio", "input_audio": {"data": ".."}}, "input_audio"),
        ({"type": "file", "file": "a.pdf"}, "file"),
        ({"type": "tool_use", "name": "zoom"}, "tool_use"),
        ({"type": "image_url", "image_url": {"url": "https://x/a.png"}}, "download it first"),
    ],
)
def test_other_parts_are_named(tmp_path, part, words):
    (gone,) = read(tmp_path, asked(part, {"type": "text", "text": "How many?"}))
    assert isinstance(gone, Dropped)
    assert words in gone.reason


def test_what_stands_before_the_question_goes_with_it(tmp_path):
    system = {"role": "system", "content": "Let x be 3."}
    turn = {"role": "user", "content": "What is x + 4?"}
    gold = {"reward_model": {"ground_truth": "7"}, "answer": "7"}
    for name in ("generic", "trl", "verl"):
        (sample,) = read(tmp_path, {"prompt": [system, turn], **gold}, name=name)
        assert sample.problem == "Let x be 3.\n\nWhat is x + 4?"
        assert sample.metadata[READING_NOTES] == [chat.KEPT_BEFORE]
    earlier = [{"role": "user", "content": "x?"}, {"role": "assistant", "content": "3"}]
    (sample,) = read(tmp_path, {"prompt": [system, *earlier, turn], **gold}, name="trl")
    assert sample.problem == ("Let x be 3.\n\nUser: x?\n\nAssistant: 3\n\nUser: What is x + 4?")
    extra = {"extra_info": {"question": "x + 4?"}}
    (sample,) = read(tmp_path, {"prompt": [system, turn], **gold, **extra}, name="verl")
    assert sample.problem == "Let x be 3.\n\nx + 4?"


def test_turns_after_the_exchange_are_counted(tmp_path):
    more = asked("One?")["messages"] + asked("Two?")["messages"]
    (sample,) = read(tmp_path, {"messages": more})
    assert (sample.problem, sample.metadata[READING_NOTES]) == ("One?", [chat.LEFT_OUT_AFTER])


def test_context_beside_the_problem(tmp_path):
    rows = [
        {"question": "What is x + 4?", "context": "Let x be 3.", "system": "Add.", "answer": "7"},
        {"question": "What is 3 + 4?", "context": None, "system": "", "answer": "7"},
    ]
    one, two = read(tmp_path, *rows, name="generic")
    assert one.problem == "Add.\n\nLet x be 3.\n\nWhat is x + 4?"
    assert two.problem == "What is 3 + 4?"
    alpaca = {"instruction": "Add the numbers.", "input": "3 and 4", "answer": "7"}
    (sample,) = read(tmp_path, alpaca, name="generic")
    assert sample.problem == "Add the numbers.\n3 and 4"
    (gone,) = read(tmp_path, alpaca | {"history": [["Hi", "Hello"]]}, name="generic")
    assert "'history'" in gone.reason


@pytest.mark.parametrize("column", ["video", "videos", "Audio", "video_path", "speech"])
def test_a_video_or_sound_in_a_column_is_named(tmp_path, column):
    row = {"question": "How many?", "answer": "2"}
    gone, kept = read(tmp_path, row | {column: "a.mp4"}, row | {column: None}, name="generic")
    assert repr(column) in gone.reason
    assert kept.answer == "2"


@pytest.mark.parametrize(
    "turns",
    [
        [{"role": "tool", "content": "x"}],
        [{"role": "user"}],
        [{"role": "system", "content": "x"}],
        3,
    ],
)
def test_a_chat_that_cannot_be_read(turns):
    with pytest.raises(DataError, match=r"chat|prompt"):
        chat.last_question(turns)

"""Nine faults of a user's set-up, each named by doctor, and none in a healthy one.

The tenth, a stale engine, needs an engine: tests/integration/test_doctor.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections import namedtuple
from dataclasses import replace

import pytest
from doctor_cases import ACCEPTS, diagnose, faults, states, told
from helpers import make_sample, tiny_config

from sapo_vl.data import store
from sapo_vl.training.doctor import survey

COUNT = 12
GIB = 2**30
Usage = namedtuple("Usage", "total used free")


def records(text: str = "What is the sum?", sizes=((64, 64),), **fields) -> list:
    """Return records in both splits with different golds."""
    found = []
    for i in range(COUNT):
        sample = make_sample(sizes, seed=10 * i, text=text, name=f"r{i}")
        split = "test" if i % 4 == 3 else "train"
        solution = f"<think>so</think>\\boxed{{{i}}}"
        found.append(replace(sample, answer=str(i), split=split, solution=solution, **fields))
    return found


@pytest.fixture
def set_up(tiny_folder, tmp_path):
    """Return a function that makes the config of a healthy set-up, with changes."""

    def make(*overrides: str, model=tiny_folder, samples=None):
        data = tmp_path / f"data{len(list(tmp_path.iterdir()))}"
        store.write(data, samples if samples is not None else records())
        return tiny_config(model, f"data.path={data}", f"run.dir={tmp_path / 'run'}", *overrides)

    return make


@pytest.fixture
def variant(tiny_folder, tmp_path):
    """Return a function that makes a copy of the tiny model with other files."""

    def make(**files: str):
        folder = tmp_path / "model"
        shutil.copytree(tiny_folder, folder)
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text)
        return folder

    return make


def test_a_healthy_set_up_has_no_fault(set_up, tmp_path):
    table = diagnose(set_up(), tmp_path / "scratch")
    assert faults(table) == {}, [row for rows in table.values() for row in rows]
    assert "12 pictures in 12 of 12 records" in told(table, "pictures")
    assert "9 train, 3 test records" in told(table, "data shards")
    assert "9 of 9 gold answers right, 0 of 32 hostile" in told(table, "verifiers")
    assert "<|im_end|> (2)" in told(table, "end of turn")
    assert not (tmp_path / "run").exists()


def test_a_wrong_template(set_up, variant, tmp_path):
    """A text model's template: it prints the parts of a message as a Python list."""
    folder = variant(
        chat_template__jinja="{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{{ m['content'] }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    )
    table = diagnose(set_up(model=folder), tmp_path / "scratch")
    assert faults(table) == {
        "chat template": "wrong",
        "end of turn": "not checked",
        "prompt lengths": "not checked",
        "prompts": "not checked",
        "verifiers": "not checked",
    }
    assert "made for text" in told(table, "chat template")
    assert "needs chat template" in told(table, "prompt lengths")


def test_an_end_token_that_the_template_never_writes(set_up, variant, tmp_path, tiny_folder):
    generation = json.loads((tiny_folder / "generation_config.json").read_text())
    text = json.dumps(generation | {"eos_token_id": 0})  # <|endoftext|>
    config = set_up(model=variant(generation_config__json=text))
    table = diagnose(config, tmp_path / "scratch")
    assert faults(table) == {"end of turn": "wrong"}
    line = told(table, "end of turn")
    assert "ends a response with <|im_end|> (2), and sampling ends at <|endoftext|> (0)" in line
    assert "add 2 to generation_config.json's eos_token_id" in line


def test_pictures_too_large_for_the_prompt(set_up, tmp_path):
    """512 x 512 pixels are 1,024 tokens of 16 x 16 pixels, above 384."""
    config = set_up("data.max_pixels=1048576", samples=records(sizes=[(512, 512)]))
    table = diagnose(config, tmp_path / "scratch")
    assert states(table)["prompt lengths"] == "wrong"
    line = told(table, "prompt lengths")
    assert "12 of 12 records are longer than 384 tokens, 12 by their pictures alone" in line
    assert "pictures too large" in line
    length = table["prompt lengths"][0].finding.cure.split("max_prompt_tokens=")[1].split()[0]
    assert f"generator.max_model_len={int(length) + 16}" in line
    assert 1024 < int(length) < 1124


def test_pictures_that_shrink_to_a_quarter(set_up, tmp_path):
    table = diagnose(set_up(samples=records(sizes=[(512, 512)])), tmp_path / "s", "pictures")
    assert states(table)["pictures"] == "doubtful"
    line = told(table, "pictures")
    assert "12 are scaled down to data.max_pixels=16,384, 12 of them to less than a quarter" in line


def test_a_verifier_that_accepts_everything(set_up, tmp_path):
    (tmp_path / "mine.py").write_text(ACCEPTS)
    config = set_up(f"rewards=[{{fn: '{tmp_path}/mine.py:anything', weight: 1}}]")
    table = diagnose(config, tmp_path / "scratch")
    assert faults(table) == {"verifiers": "wrong"}
    assert "accepts everything: each of 32 responses" in told(table, "verifiers")


def test_a_verifier_that_a_policy_can_deceive(set_up, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def holds(sample, response):\n    return float(sample.answer in response)\n"
    )
    config = set_up(f"rewards=[{{fn: '{tmp_path}/mine.py:holds', weight: 1}}]")
    table = diagnose(config, tmp_path / "scratch", "verifiers")
    assert states(table)["verifiers"] == "doubtful"
    assert "several boxed answers (4 times), two answers in a box (4 times)" in told(
        table, "verifiers"
    )


def test_a_full_disk(set_up, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(GIB, GIB - 5 * 2**20, 5 * 2**20))
    table = diagnose(set_up(), tmp_path / "scratch")
    assert faults(table) == {"disk": "wrong"}
    assert "5.0 MiB are free on its disk" in told(table, "disk")
    assert "lower checkpoint.keep=2, or name a folder on a larger disk" in told(table, "disk")


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 1 MiB; skip where this user may not."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_of_one_mebibyte_that_becomes_read_only(set_up, tmp_path, small_disk):
    config = set_up(f"run.dir={small_disk / 'runs' / 'mine'}")
    assert faults(diagnose(config, tmp_path / "s", "disk")) == {"disk": "wrong"}
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    table = diagnose(config, tmp_path / "s", "disk")
    assert faults(table) == {"run folder": "wrong", "disk": "not checked"}
    assert "can't be used: Read-only file system" in told(table, "run folder")


def test_no_write_access(set_up, tmp_path):
    (tmp_path / "file").write_text("")
    table = diagnose(set_up(f"run.dir={tmp_path / 'file' / 'run'}"), tmp_path / "scratch")
    assert faults(table) == {"run folder": "wrong", "disk": "not checked"}
    assert f"run.dir={tmp_path}/file/run can't be used: Not a directory" in told(
        table, "run folder"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_of_somebody_else(set_up, tmp_path):
    (tmp_path / "theirs").mkdir(mode=0o555)
    table = diagnose(set_up(f"run.dir={tmp_path / 'theirs' / 'run'}"), tmp_path / "s", "run folder")
    assert "can't be used: Permission denied" in told(table, "run folder")


def test_a_taken_port(set_up, tmp_path, monkeypatch):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        table = diagnose(set_up(), tmp_path / "scratch")
    assert faults(table) == {"ports": "wrong"}
    assert f"port {port} is in use on this machine: set MASTER_PORT" in told(table, "ports")
    assert f"port {port}, where the ranks meet, is free" in told(
        diagnose(set_up(), tmp_path / "scratch", "ports"), "ports"
    )


def test_data_without_pictures(set_up, tmp_path):
    lost = records("How long is the side in the figure?", sizes=())
    table = diagnose(set_up(samples=lost), tmp_path / "scratch")
    assert faults(table)["pictures"] == "wrong"
    line = told(table, "pictures")
    assert "data without pictures: 12 of 12 records have no picture and speak of one" in line
    assert "(record r0)" in line or "(record r3)" in line
    plain = diagnose(set_up(samples=records(sizes=())), tmp_path / "s", "pictures")
    assert states(plain)["pictures"] == "doubtful"
    assert "so that text alone is trained" in told(plain, "pictures")


def test_a_shard_that_is_cut_off(set_up, tmp_path):
    config = set_up()
    shard = config.data.path / "train-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    table = diagnose(config, tmp_path / "scratch")
    assert states(table)["data shards"] == "wrong"
    assert f"{shard}: not a readable parquet file" in told(table, "data shards")


def test_a_shard_that_is_damaged_inside(set_up, tmp_path):
    """Twenty bytes in the page of the first column that no footer tells of."""
    config = set_up()
    shard = config.data.path / "train-00000.parquet"
    content = bytearray(shard.read_bytes())
    at = content.index(b"What is the sum?") - 24
    content[at : at + 20] = b"\xff" * 20
    shard.write_bytes(bytes(content))
    table = diagnose(config, tmp_path / "scratch")
    assert states(table)["data shards"] == "wrong"
    assert str(shard) in told(table, "data shards")


def test_a_large_set_is_read_in_part(set_up, tmp_path, monkeypatch):
    monkeypatch.setattr(survey, "SECONDS", 0.0)
    monkeypatch.setattr(survey, "CHUNK", 4)
    table = diagnose(set_up(), tmp_path / "scratch", "data shards")
    line = told(table, "data shards")
    assert re.search(r"; [134] records \(of 12, as the time allowed\) read", line), line


def test_a_broken_picture_is_named(set_up, tmp_path):
    samples = records()
    samples[2] = replace(samples[2], images=(samples[2].images[0][:200],))
    table = diagnose(set_up(samples=samples), tmp_path / "scratch", "prompt lengths", "pictures")
    assert states(table)["pictures"] == "doubtful"
    assert "1 of 12 records have a broken picture: record r2:" in told(table, "pictures")


def test_records_that_all_have_one_answer(set_up, tmp_path):
    """Nothing is known of what would be another answer: five kinds of responses are left."""
    same = [replace(sample, answer="7") for sample in records()]
    table = diagnose(set_up(samples=same), tmp_path / "s", "verifiers")
    assert faults(table) == {}
    assert "0 of 20 hostile responses accepted" in told(table, "verifiers")

"""`sapo-vl serve`: the program that it becomes, and what it refuses."""

from __future__ import annotations

import os
import sys
from itertools import pairwise

import pytest

from sapo_vl.cli import parser
from sapo_vl.generator.servers import process


class BecameError(Exception):
    """What the process would have become."""


@pytest.fixture
def become(monkeypatch):
    """Replace the call that ends this program by an exception with its arguments."""

    def execve(path, command, environment):
        raise BecameError(path, command, environment)

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setattr(process, "gpu_count", lambda: 0)


def test_it_is_started_as_a_local_server_is(become, tiny_folder, monkeypatch):
    monkeypatch.setenv("SAPO_SERVER_KEY", "secret")
    monkeypatch.setenv("RANK", "3")
    words = [f"model.path={tiny_folder}", "--host", "10.0.0.3", "--port", "8123"]
    with pytest.raises(BecameError) as caught:
        parser.main(["serve", "generator.max_num_seqs=7", *words])
    path, command, environment = caught.value.args
    assert path == sys.executable
    pairs = dict(pairwise(command))
    assert pairs["--model"] == str(tiny_folder)
    assert pairs["--host"] == "10.0.0.3"
    assert pairs["--port"] == "8123"
    assert pairs["--max-num-seqs"] == "7"
    assert pairs["--logprobs-mode"] == "processed_logprobs"
    assert pairs["--middleware"] == "sapo_vl.generator.servers.guard.KeyGuard"
    assert "--no-mm-device-do-normalize" in command
    assert "secret" not in " ".join(command)
    assert environment["VLLM_API_KEY"] == "secret"
    assert environment["VLLM_SERVER_DEV_MODE"] == "1"
    assert "RANK" not in environment


@pytest.mark.parametrize(
    ("key", "words", "told"),
    [
        ("", [], "SAPO_SERVER_KEY"),
        ("secret", ["--port", "70000"], "--port 70000 must be from 1 to 65535"),
        ("secret", ["model.path=tiny"], "init-tiny"),
    ],
)
def test_what_it_refuses(become, tiny_folder, monkeypatch, capsys, key, words, told):
    monkeypatch.setenv("SAPO_SERVER_KEY", key)
    with pytest.raises(SystemExit) as caught:
        parser.main(["serve", f"model.path={tiny_folder}", *words])
    assert caught.value.code == 2
    assert told in capsys.readouterr().err

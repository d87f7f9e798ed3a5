"""`sapo-vl serve` becomes a server with the options of a local one."""

from __future__ import annotations

import json
import os
import socket
from itertools import pairwise

import pytest
from helpers import one_line, tiny_config

from sapo_vl.cli.parser import main
from sapo_vl.generator.servers.command import serve_command, serve_options
from sapo_vl.generator.servers.generator import KEY_VARIABLE as LEARNERS_KEY
from sapo_vl.generator.servers.guard import KEY_VARIABLE, OPTIONS_VARIABLE
from sapo_vl.generator.servers.process import free_port
from sapo_vl.model.assets import open_assets


def test_a_server_elsewhere_has_the_options_of_a_local_one(tiny_folder, monkeypatch):
    became = []

    def become(program, command, environment):
        became.append((program, command, environment))
        raise SystemExit(0)

    monkeypatch.setattr(os, "execve", become)
    monkeypatch.setenv(LEARNERS_KEY, "the-key")
    monkeypatch.setenv("RANK", "3")  # by chance, from the shell
    config = tiny_config(tiny_folder, "model.lora.rank=8", "run.seed=5")
    port = free_port()
    words = [
        *(f"model.path={tiny_folder}", "model.dtype=float32", "model.lora.rank=8", "run.seed=5"),
        *("generator.max_model_len=512", "generator.kv_cache_mb=64", "generator.max_images=4"),
        *("data.min_pixels=256", "data.max_pixels=16384", "rollout.max_new_tokens=16"),
        *("sft.steps=0", "generator.max_num_seqs=256"),
    ]
    with pytest.raises(SystemExit):
        main(["serve", *words, "--host", "127.0.0.1", "--port", str(port)])
    ((program, command, environment),) = became
    options = serve_options(config, open_assets(tiny_folder), seed=5)
    assert command == serve_command(options, "127.0.0.1", port)
    assert json.loads(environment[OPTIONS_VARIABLE]) == options
    assert program == command[0]
    assert [word for word in command if word in ("--enable-lora", "--max-lora-rank", "8")] == [
        "--enable-lora",
        "--max-lora-rank",
        "8",
    ]
    pairs = dict(pairwise(command))
    assert pairs["--logprobs-mode"] == "processed_logprobs"
    assert pairs["--middleware"] == "sapo_vl.generator.servers.guard.KeyGuard"
    assert "--no-mm-device-do-normalize" in command
    assert environment[KEY_VARIABLE] == "the-key"
    assert not any("the-key" in word for word in command)
    assert "RANK" not in environment


def test_no_key_a_tiny_model_and_a_taken_port_are_refused(tiny_folder, monkeypatch):
    path = f"model.path={tiny_folder}"
    monkeypatch.delenv(LEARNERS_KEY, raising=False)
    assert LEARNERS_KEY in one_line("serve", path, "--port", str(free_port()))
    monkeypatch.setenv(LEARNERS_KEY, "key")
    assert "init-tiny" in one_line("serve", "model.path=tiny:qwen3_vl")
    assert "--port 70000" in one_line("serve", path, "--port", "70000")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"--port {port}: Address already in use" in one_line("serve", path, "--port", port)
    unknown = one_line("serve", path, "--host", "192.0.2.1")
    assert "--host 192.0.2.1" in unknown

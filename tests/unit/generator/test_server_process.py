"""Local servers' processes, with a stand-in for vLLM: ports, deadlines, deaths, orphans."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
from helpers import ROOT, environment, tiny_config

from sapo_vl.errors import ConfigError, SetupError
from sapo_vl.generator.servers import process
from sapo_vl.generator.servers.client import ServerClient, ServerError
from sapo_vl.generator.servers.command import flags
from sapo_vl.generator.servers.process import LocalServers, places, why_it_ended

STAND_IN = ROOT / "tests" / "stand_in_server.py"

PROCESSES_GO = 10.0
"""Seconds within which a process that is told to end has to be gone."""


def config_of(folder: Path, run: Path, count: int = 2):
    return tiny_config(
        folder, "generator.backend=server", f"generator.local_servers={count}", f"run.dir={run}"
    )


@pytest.fixture
def servers(tiny_folder, assets, tmp_path, monkeypatch):
    """Return two local servers, not yet started, whose program is the stand-in."""
    monkeypatch.setattr(process, "serve_command", stand_in_command)
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    found = LocalServers(config_of(tiny_folder, tmp_path), assets, seed=0)
    found.start_seconds = 30.0
    yield found
    found.stop()


def stand_in_command(options, host: str, port: int) -> list[str]:
    return [sys.executable, str(STAND_IN), "--host", host, "--port", str(port)]


def failing_command(text: str):
    program = f"import sys; print({text!r}); sys.exit(3)"
    return lambda *args, **options: [sys.executable, "-c", program]


def is_gone(group: int) -> bool:
    """Whether no process of a group is left, waiting a while for it."""
    deadline = time.monotonic() + PROCESSES_GO
    while time.monotonic() < deadline:
        with suppress(ChildProcessError):
            os.waitpid(-group, os.WNOHANG)
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def child_of(pid: int) -> int:
    """Return the one child of a process: the server itself, below its watcher."""
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def test_servers_start_want_their_key_and_end(servers, tmp_path):
    servers.start()
    groups = servers.pids
    assert len(set(servers.addresses)) == len(groups) == 2
    for address in servers.addresses:
        with closing(ServerClient(address, servers.key)) as client:
            assert client.get("/weight_info") == {"weight_version": "default"}
        with closing(ServerClient(address, "wrong")) as client, pytest.raises(SetupError):
            client.get("/weight_info")
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in groups]
    assert not any(servers.key.encode() in command for command in commands)
    servers.stop()
    assert all(map(is_gone, groups))
    logs = sorted((tmp_path / "servers").glob("*.log"))
    assert [log.name for log in logs] == ["server-0.log", "server-1.log"]
    assert not any(servers.key in log.read_text() for log in logs)


def test_a_server_that_is_killed_is_started_anew(servers):
    servers.start()
    assert servers.restart_dead() == []
    before = servers.pids
    os.kill(child_of(before[1]), signal.SIGKILL)  # the program, not its watcher
    assert is_gone(before[1])
    assert servers.restart_dead() == [1]
    assert servers.pids[0] == before[0]
    with closing(ServerClient(servers.addresses[1], servers.key)) as client:
        assert client.is_up()


def test_a_server_that_hangs_is_ended_and_started_anew(servers):
    servers.start()
    group = servers.pids[0]
    os.killpg(group, signal.SIGSTOP)
    with closing(ServerClient(servers.addresses[0], servers.key)) as client:
        assert not client.is_up(timeout=0.3)
    servers.end(0)
    assert is_gone(group)
    assert servers.restart_dead() == [0]


def test_a_port_that_is_taken_is_left_for_the_next(servers, monkeypatch):
    with socket.socket() as taken:
        taken.bind((process.LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        offered = iter([port, process.free_port(), process.free_port()])
        monkeypatch.setattr(process, "free_port", lambda: next(offered))
        servers.start()
        assert f"http://127.0.0.1:{port}" not in servers.addresses


def test_when_no_port_is_free_one_line_says_so(servers, monkeypatch):
    with socket.socket() as taken:
        taken.bind((process.LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(process, "free_port", lambda: port)
        with pytest.raises(SetupError, match="4 ports were taken by other processes") as caught:
            servers.start()
    assert "\n" not in str(caught.value)
    assert servers.pids == []


def test_a_server_that_ends_while_it_starts(servers, monkeypatch):
    said = "Traceback\nValueError: 1.2 GiB KV cache is needed, larger than the available"
    monkeypatch.setattr(process, "serve_command", failing_command(said))
    with pytest.raises(SetupError) as caught:
        servers.start()
    told = str(caught.value)
    assert "ended with code 3 while it started: raise generator.kv_cache_mb or lower" in told
    assert "1.2 GiB KV cache is needed" in told
    assert ".log" in told
    assert "\n" not in told
    assert servers.pids == []


def test_a_server_that_never_answers(servers, monkeypatch):
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(process, "serve_command", lambda *a, **k: command)
    servers.start_seconds = 0.5
    with pytest.raises(SetupError, match=r"did not answer within 0\.5 s of its start"):
        servers.start()
    assert servers.pids == []


def test_no_server_outlives_the_process_that_started_it(tmp_path):
    """Killed with SIGKILL, which no handler sees; the server is started by a thread of it."""
    program = f"""
import sys, threading, time
from pathlib import Path
from sapo_vl.generator.servers.process import LocalServer
def start():
    server = LocalServer([sys.executable, "-c", "import time; time.sleep(60)"], dict(**__import__(
        "os").environ), Path({str(tmp_path / "log")!r}), set())
    print(server.pid, flush=True)
thread = threading.Thread(target=start)
thread.start()
thread.join()
time.sleep(60)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert parent.stdout is not None
    group = int(parent.stdout.readline())
    time.sleep(0.5)
    os.killpg(group, 0)  # it outlives the thread
    parent.kill()
    parent.wait()
    assert is_gone(group)
    assert "gone: ending it" in (tmp_path / "log").read_text()


def test_options_become_flags():
    options = {"max_len": 8, "eager": True, "chunked": False, "limits": {"image": 2}, "dtype": "x"}
    assert flags(options) == [
        *("--max-len", "8", "--eager", "--no-chunked"),
        *("--limits", '{"image": 2}', "--dtype", "x"),
    ]


def test_servers_have_the_cores_and_gpus_after_the_learners(tiny_folder, tmp_path, monkeypatch):
    config = config_of(tiny_folder, tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4, 10)))
    monkeypatch.setattr(process, "gpu_count", lambda: 0)
    assert [place.cores for place in places(config, 1)] == [set(), set()]  # the learner waits
    config.rollout.ahead = 1
    assert [place.cores for place in places(config, 1)] == [{5, 6}, {7, 8}]
    assert [place.cores for place in places(config, 6)] == [set(), set()]
    monkeypatch.setattr(process, "gpu_count", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,5,3,1")
    config.generator.tensor_parallel = 1
    shown = [place.variables["CUDA_VISIBLE_DEVICES"] for place in places(config, 2)]
    assert shown == ["3", "1"]
    with pytest.raises(ConfigError, match="needs 2 GPUs beside the learner's 3, and 4 are visible"):
        places(config, 3)


def test_local_servers_are_for_a_learner_on_one_machine(tiny_folder, assets, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"local_servers=2 is for a learner on one machine"):
        LocalServers(config_of(tiny_folder, tmp_path), assets, seed=0)


def test_the_last_error_of_a_log_is_told():
    log = "INFO x\nRuntimeError: first\n  File y\nOSError: no such\x1b[0m file\nINFO z"
    assert why_it_ended(log) == "OSError: no such\\x1b[0m file"
    cause = "RuntimeError: Engine core initialization failed. See root cause above."
    assert why_it_ended(f"ValueError: no room\n{cause}") == "ValueError: no room"
    assert why_it_ended("INFO x") == "it wrote no error"


def test_a_local_servers_end_is_noticed_by_its_client(servers):
    servers.start()
    with closing(ServerClient(servers.addresses[0], servers.key)) as client:
        servers.end(0)
        with pytest.raises(ServerError, match=r"no connection|closed the connection"):
            client.get("/weight_info")

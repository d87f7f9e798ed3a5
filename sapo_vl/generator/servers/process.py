"""Local vLLM servers: `vllm serve` processes that belong to this one (generator.local_servers).

    servers = LocalServers(config, assets, seed=0)
    servers.start()                 # returns when all answer, raises SetupError otherwise
    servers.addresses, servers.key  # for the clients
    servers.restart_dead()          # those that were started anew: they have the folder's weights
    servers.stop()

Each server listens on a free port of 127.0.0.1, wants a random key on every path (guard.py), and
writes run.dir/servers/server-N.log. The key is in the servers' environment and in this process's
memory, and nowhere else. A server is the leader of its own process group (watch.py): Ctrl-C in a
terminal doesn't reach it, and it ends when this process does, however that ends.

On GPUs the learner's ranks come first, and a server takes generator.tensor_parallel of those after
them. Without a GPU the system places the processes: a server has two busy ones, vLLM's engine and
its HTTP side, and the learner's core is free while it waits.

Measured with the tiny model on two busy cores: a server answers 36 s after its start, most of which
is vLLM's import; one whose engine is killed is known as lost within a second, and answers again
50 s later; `stop` takes 0.7 s.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from sapo_vl.errors import ConfigError, SetupError, printable
from sapo_vl.generator.engine_options import room_advice
from sapo_vl.generator.servers import watch
from sapo_vl.generator.servers.command import serve_command, serve_environment, serve_options
from sapo_vl.generator.servers.guard import OPEN_PATH
from sapo_vl.system import distributed
from sapo_vl.system.machine import gpu_count

if TYPE_CHECKING:
    from sapo_vl.config import Config
    from sapo_vl.model.assets import ModelAssets

LOOPBACK = "127.0.0.1"

START_SECONDS = 900.0
"""Deadline of a start: large weights come from a slow disk, and GPUs compile."""

STOP_SECONDS = 10.0
"""Time that a server has to end by itself."""

PORTS = 4
"""Ports that a server tries: another process may take one between our look and vLLM's."""

POLL_SECONDS = 0.1

LOG_TAIL = 64 << 10
"""Bytes at the end of a server's log in which the reason of its end is looked for."""

PORT_TAKEN = "Address already in use"

ROOT_CAUSE = "See root cause above"
"""vLLM's last error, when the first one came from its engine's process."""


class LocalServer:
    """One server's process."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        """Start `command` (with its port in it), appending its output to `log`."""
        self.log = log
        with log.open("ab") as out:
            self.log_start = out.tell()
            self._process = subprocess.Popen(
                [sys.executable, watch.__file__, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process group's id."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """Return the exit code of a server that has ended, None while it lives."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """Send SIGTERM, on which vLLM ends by itself."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self, seconds: float = 0.0) -> None:
        """End all of the server's processes, at once or when `seconds` have passed."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def said(self) -> str:
        """Return the end of what the server has written since this start."""
        with self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self.log_start, size - LOG_TAIL))
            return file.read().decode(errors="replace")


class LocalServers:
    """The servers of one learner, started and stopped by its rank 0."""

    def __init__(self, config: Config, assets: ModelAssets, *, seed: int) -> None:
        """Choose GPUs.

        Raises ConfigError where the machine has too few GPUs, or the learner has others: they don't
        reach 127.0.0.1.
        """
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE", distributed.world_size()))
        if ranks < distributed.world_size():
            raise ConfigError(
                f"generator.local_servers={config.generator.local_servers} is for a learner on one "
                "machine: start servers with `sapo-vl serve` and name them in generator.servers"
            )
        self._options = serve_options(config, assets, seed=seed)
        self.key = secrets.token_urlsafe(32)
        self._count = config.generator.local_servers
        self._places = gpu_places(config, ranks)
        self._folder = config.run.dir / "servers"
        self._servers: list[LocalServer | None] = [None] * self._count
        self._ports = [0] * self._count
        self.start_seconds = START_SECONDS

    @property
    def addresses(self) -> list[str]:
        """Where the servers listen, as http://127.0.0.1:PORT."""
        return [f"http://{LOOPBACK}:{port}" for port in self._ports]

    @property
    def pids(self) -> list[int]:
        """The process groups of the running servers."""
        return [server.pid for server in self._servers if server is not None]

    def start(self) -> None:
        """Start all servers and wait until each answers. Raises SetupError; then none is left."""
        self._start(range(self._count))

    def restart_dead(self) -> list[int]:
        """Start anew each server that has ended, or was given up by `end`; return their indices.

        They have the weights of the model's folder. Raises SetupError as `start` does.
        """
        dead = [
            i
            for i, server in enumerate(self._servers)
            if server is None or server.exit_code() is not None
        ]
        self._start(dead)
        return dead

    def end(self, index: int) -> None:
        """Kill one server: it hangs."""
        server = self._servers[index]
        if server is not None:
            server.kill()
        self._servers[index] = None

    def stop(self) -> None:
        """End all servers."""
        running = [server for server in self._servers if server is not None]
        for server in running:
            server.ask_to_stop()
        deadline = time.monotonic() + STOP_SECONDS
        for server in running:
            server.kill(max(0.0, deadline - time.monotonic()))
        self._servers = [None] * self._count

    def _start(self, indices: Sequence[int]) -> None:
        """Start servers side by side, each on another port where its own was taken."""
        self._folder.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + self.start_seconds
        waiting = dict.fromkeys(indices, 1)  # index: starts so far
        try:
            for index in waiting:
                self._launch(index)
            while waiting:
                for index in list(waiting):
                    if self._is_up(index, waiting, deadline):
                        del waiting[index]
                time.sleep(POLL_SECONDS)
        except BaseException:
            self.stop()
            raise

    def _launch(self, index: int) -> None:
        self._ports[index] = free_port()
        command = serve_command(self._options, LOOPBACK, self._ports[index])
        environment = serve_environment(self.key, self._options) | self._places[index]
        log = self._folder / f"server-{index}.log"
        self._servers[index] = LocalServer(command, environment, log)

    def _is_up(self, index: int, starts: dict[int, int], deadline: float) -> bool:
        """Return whether a server answers. Raises SetupError when it won't."""
        server = self._servers[index]
        assert server is not None
        code = server.exit_code()
        if code is not None:
            told = server.said()
            if PORT_TAKEN in told and starts[index] < PORTS:
                starts[index] += 1
                self._launch(index)
                return False
            raise SetupError(
                f"generator.local_servers: server {index} ended with code {code} while it started: "
                f"{why_it_ended(told)}; its log is {server.log}"
            )
        with suppress(httpx.TransportError):
            answer = httpx.get(self.addresses[index] + OPEN_PATH, timeout=2.0, trust_env=False)
            if answer.status_code == 200:
                return True
        if time.monotonic() > deadline:
            raise SetupError(
                f"generator.local_servers: server {index} did not answer within "
                f"{self.start_seconds:g} s of its start; its log is {server.log}"
            )
        return False


def gpu_places(config: Config, ranks: int) -> list[dict[str, str]]:
    """Return the variables that give each local server its GPUs, after the learner's `ranks`.

    Without a GPU they are empty. Raises ConfigError where there are too few GPUs.
    """
    count, each = config.generator.local_servers, config.generator.tensor_parallel
    gpus = gpu_count()
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = (
            [name.strip() for name in visible.split(",")] if visible else [*map(str, range(gpus))]
        )
        free = names[ranks:]
        if len(free) < count * each:
            raise ConfigError(
                f"generator.local_servers={count} with generator.tensor_parallel={each} needs "
                f"{count * each} GPUs beside the learner's {ranks}, and {gpus} are visible: lower "
                "it or SAPO_RANKS"
            )
        return [
            {"CUDA_VISIBLE_DEVICES": ",".join(free[i * each : (i + 1) * each])}
            for i in range(count)
        ]
    return [{} for _ in range(count)]


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def why_it_ended(log: str) -> str:
    """Return one line about a server's end: which key to change, or the last error in its log."""
    told = " ".join(log.split())
    advice = room_advice(told, on_gpu=gpu_count() > 0)
    errors = [
        line.strip() for line in log.splitlines() if "Error: " in line and ROOT_CAUSE not in line
    ]
    last = printable(errors[-1][-300:]) if errors else "it wrote no error"
    if PORT_TAKEN in log:
        advice = f"{PORTS} ports were taken by other processes"
    return f"{advice}. vLLM: {last}" if advice else last

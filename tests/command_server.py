"""A process that has imported what commands import, and forks one child per command.

`helpers.cli` uses it: importing torch, transformers and DeepSpeed takes 10 s of a command that is
done in one. The child runs the same `main` with its own working directory, environment and output;
tests that set environment variables, which are read at import, start a real process instead.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path


class CommandServer:
    """Start the server; run commands on it."""

    def __init__(self, environment: dict[str, str]) -> None:
        """Start it with this environment. It ends with this process."""
        self._folder = tempfile.TemporaryDirectory(prefix="sapo-commands")
        self._path = f"{self._folder.name}/socket"
        self._process = subprocess.Popen(
            [sys.executable, __file__, self._path], env=environment, stdin=subprocess.PIPE
        )
        atexit.register(self.close)
        deadline = time.monotonic() + 120
        while not Path(self._path).exists():
            assert self._process.poll() is None, "the command server died"
            assert time.monotonic() < deadline, "the command server does not start"
            time.sleep(0.05)

    def run(
        self, arguments: list[str], environment: dict[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run `sapo-vl ARGUMENTS` as subprocess.run would; kill it after `timeout` seconds."""
        with tempfile.TemporaryDirectory(dir=self._folder.name) as folder:
            out, err = (Path(folder, name) for name in ("out", "err"))
            job = {
                "arguments": arguments,
                "environment": environment,
                "cwd": os.getcwd(),
                "out": str(out),
                "err": str(err),
            }
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(self._path)
                stream = connection.makefile("rw")
                stream.write(json.dumps(job) + "\n")
                stream.flush()
                pid = int(stream.readline())
                connection.settimeout(timeout)
                try:
                    code = int(stream.readline())
                except TimeoutError:
                    os.kill(pid, signal.SIGKILL)
                    raise subprocess.TimeoutExpired(arguments, timeout) from None
            texts = [path.read_text(encoding="utf-8", errors="replace") for path in (out, err)]
            return subprocess.CompletedProcess(["sapo-vl", *arguments], code, *texts)

    def close(self) -> None:
        """End the server."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.terminate()
        self._process.wait()


def serve(path: str) -> None:
    """Import the packages, then fork a handler for each connection."""
    from sapo_vl.system.machine import prepare_environment

    prepare_environment()
    import deepspeed  # noqa: F401
    from transformers import AutoModelForImageTextToText, AutoProcessor  # noqa: F401

    import sapo_vl.train  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # handlers are not waited for
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{path}.new")
        server.listen()
        os.rename(f"{path}.new", path)
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                server.close()
                handle(connection)
            connection.close()


def handle(connection: socket.socket) -> None:
    """Fork the command, report its process id, wait, report its exit code; don't return."""
    stream = connection.makefile("rw")
    job = json.loads(stream.readline())
    pid = os.fork()
    if pid == 0:
        connection.detach()
        run(job)
    stream.write(f"{pid}\n")
    stream.flush()
    _, status = os.waitpid(pid, 0)
    stream.write(f"{os.waitstatus_to_exitcode(status)}\n")
    stream.flush()
    os._exit(0)


def run(job: dict) -> None:
    """Become the command: its output, environment and folder, then `main`; don't return."""
    for number, name in ((1, job["out"]), (2, job["err"])):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["cwd"])
    sys.argv = ["sapo-vl", *job["arguments"]]
    sys.path[:0] = [""]
    code = 1
    try:
        from sapo_vl.cli.parser import main

        main(job["arguments"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])

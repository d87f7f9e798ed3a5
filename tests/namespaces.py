"""Machines for tests: network namespaces of this one, joined by a bridge in a further namespace.

    with Machines(4) as machines:
        subprocess.run([*machines.on(0), "ping", "-c1", machines.addresses[3]])

Each has an interface of its own beside loopback, and each command a /dev/shm of its own, so that
memory can't be shared between machines. Nothing outside the namespaces is changed. It takes root
and the program `ip`; what is lacking is the text of `Unavailable`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from types import TracebackType

ALONE = 'mount -t tmpfs tmpfs /dev/shm && exec "$@"'


class Unavailable(Exception):
    """This system makes no namespaces, and why."""


class Machines:
    """So many machines, 10.77.0.1 and on."""

    def __init__(self, count: int) -> None:
        """Make them. Raises Unavailable where that can't be done, and leaves nothing behind."""
        if os.geteuid() != 0:
            raise Unavailable("network namespaces need root")
        if shutil.which("ip") is None:
            raise Unavailable("there is no program ip")
        self.addresses = [f"10.77.0.{number}" for number in range(1, count + 1)]
        self._token = f"sapo-{secrets.token_hex(3)}"
        self._made: list[str] = []
        try:
            self._make()
        except subprocess.CalledProcessError as error:
            self.close()
            said = str(error.stderr).strip()
            raise Unavailable(f"no namespaces here: {' '.join(error.cmd)}: {said}") from error
        except BaseException:
            self.close()
            raise

    @property
    def prefix(self) -> list[str]:
        """What stands in front of a command to run it on the machine {node}, by address."""
        return ["ip", "netns", "exec", self._name("{node}"), "bash", "-c", ALONE, "bash"]

    def on(self, index: int) -> list[str]:
        """Return what stands in front of a command to run it on a machine."""
        return [word.format(node=self.addresses[index]) for word in self.prefix]

    def close(self) -> None:
        """End all processes on the machines, and remove the namespaces with their interfaces."""
        for name in self._made:
            listing = subprocess.run(
                ["ip", "netns", "pids", name], capture_output=True, text=True, check=False
            )
            for pid in map(int, listing.stdout.split()):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        for name in self._made:
            subprocess.run(["ip", "netns", "delete", name], check=False)
        self._made.clear()

    def _name(self, machine: str) -> str:
        return f"{self._token}-{machine}"

    def _make(self) -> None:
        switch = self._name("switch")
        for name in (switch, *map(self._name, self.addresses)):
            _ip("netns", "add", name)
            self._made.append(name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for number, address in enumerate(self.addresses):
            name, port = self._name(address), f"port{number}"
            _ip("-n", switch, "link", "add", port, "type", "veth", "peer", "net0", "netns", name)
            _ip("-n", switch, "link", "set", port, "master", "bridge", "up")
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "net0")
            _ip("-n", name, "link", "set", "net0", "up")

    def __enter__(self) -> Machines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)

"""Where a run writes and who listens: run.dir, its lock, its disk, ports and servers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from sapo_vl.errors import SetupError
from sapo_vl.generator.servers.client import ServerClient
from sapo_vl.generator.servers.generator import find_servers
from sapo_vl.runs.files import user_path
from sapo_vl.runs.lock import LOCK_FILE, FolderLock
from sapo_vl.runs.record import steps_done
from sapo_vl.system.network import check_port, local_address
from sapo_vl.training.doctor.findings import Finding, doubtful, fine, skipped
from sapo_vl.training.doctor.subject import Subject
from sapo_vl.training.plan import hardware
from sapo_vl.training.plan.limits import disk_shortage, in_words

ROOM = 1.25
"""Multiple of what checkpoints and models need that should be free: rollouts and logs come too."""

DEFAULT_PORT = 29500


def check_run_folder(subject: Subject) -> Iterator[Finding]:
    """Check that run.dir can be written, that nobody uses it, and whether it holds a run.

    Raises SetupError where it can't be written, ConfigError where another process holds its lock.
    """
    folder = subject.run_dir
    with user_path("run.dir", folder):
        if folder.exists() and not folder.is_dir():
            raise SetupError(f"run.dir={folder} is a file: name a folder")
        place = nearest_folder(folder)
        with tempfile.NamedTemporaryFile(dir=place, prefix=".sapo-vl-doctor-") as probe:
            probe.write(b"x")
            probe.flush()
        if (folder / LOCK_FILE).exists():
            with closing(FolderLock(folder, "run.dir")):
                pass
    if (folder / "metrics.jsonl").exists() or any(folder.glob("checkpoints/step_*")):
        yield doubtful(
            f"run.dir={folder} holds a run at step {steps_done(folder)}",
            "continue it with --resume, or name another run.dir",
        )
    else:
        yield fine(f"run.dir={folder} can be written and nobody uses it")


def nearest_folder(path: Path) -> Path:
    """Return `path`, or the nearest folder above it that exists.

    Raises NotADirectoryError where a file is in the way, PermissionError where one can't be looked
    at.
    """
    place = path.absolute()
    while True:
        try:
            place.stat()
            return place
        except FileNotFoundError:
            place = place.parent


def check_disk(subject: Subject) -> Iterator[Finding]:
    """Compare what checkpoints and final models need with the free space at run.dir."""
    made = subject.plan(subject.ranks)
    shortage = disk_shortage(made)
    if shortage:
        raise SetupError(shortage)
    with user_path("run.dir", subject.run_dir):
        free = hardware.free_disk(subject.run_dir)
    needed, share = in_words(made.disk.total), f"{in_words(free)} are free"
    told = (
        f"{made.disk.kept} checkpoints of {in_words(made.disk.checkpoint)} and the final model "
        f"need {needed}, {share}"
    )
    if free < ROOM * made.disk.total:
        yield doubtful(
            f"{told}, which leaves little for rollouts",
            "free some space, or lower checkpoint.keep or raise run.rollouts_every",
        )
    else:
        yield fine(told)


def check_ports(subject: Subject) -> Iterator[Finding]:
    """Check the port where ranks of several machines meet, if this machine is the first.

    Raises SetupError for a port that is taken, or an address that can't be reached.
    """
    named = [name for name in ("SAPO_HOSTFILE", "MASTER_PORT") if os.environ.get(name)]
    if not named:
        yield fine("the ranks of one machine meet in a file: no port is needed")
        return
    text = os.environ.get("MASTER_PORT") or str(DEFAULT_PORT)
    if not (text.isdigit() and 0 < int(text) < 2**16):
        raise SetupError(f"MASTER_PORT={text} is no port: set it to a number from 1 to 65535")
    port, address = int(text), os.environ.get("MASTER_ADDR")
    if address:
        local_address(address, port)
    if os.environ.get("SAPO_NODE", "0") != "0":
        yield skipped(f"port {port} is opened on the first machine, and this is another one")
        return
    check_port(port)
    yield fine(f"port {port}, where the ranks meet, is free")


def check_servers(subject: Subject) -> Iterator[Finding]:
    """Check that the servers in generator.servers answer, with this run's options.

    Raises SetupError or ConfigError, which name the server.
    """
    config = subject.config
    if not config.generator.servers:
        yield fine(f"none is named; generator.backend={config.generator.backend}")
        return
    addresses, key, other = find_servers(config, subject.assets, config.run.seed)
    slow = []
    for address in addresses:
        with closing(ServerClient(address, key)) as client:
            if not client.is_up():
                slow.append(address)
    if slow:
        yield doubtful(f"not well by their own word: {', '.join(slow)}", "see the servers' output")
    if other:
        yield doubtful(other, "fine after a warm-up; else start the servers with the run's model")
    if not slow and not other:
        yield fine(f"{len(addresses)} servers answer, with this run's options")

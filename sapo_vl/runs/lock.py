"""One process at a time per folder: an advisory lock that the kernel releases when its owner dies.

    with FolderLock(out, "--out"):
        ...

The lock is `flock` on FOLDER/.lock. The file names its owner and stays behind; only the lock
counts, so nothing has to be removed after a crash.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import weakref
from pathlib import Path
from types import TracebackType

from sapo_vl.errors import ConfigError

LOCK_FILE = ".lock"

_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What flock reports on a file system that has no locks, such as Lustre mounted without them."""


class FolderLock:
    """Holds a folder for this process until `close`, or until the process dies in whatever way."""

    def __init__(self, folder: Path, key: str) -> None:
        """Lock `folder`, which is created if absent; `key` is the option that names it.

        On a file system without locks nothing is locked.

        Raises:
            ConfigError: another process holds it; the message names the process and its machine.
            OSError: the folder can't be created or written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / LOCK_FILE
        self._file = self._path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            owner = _owner(self._file.read(200))
            self._file.close()
            if error.errno in _WITHOUT_LOCKS:
                return
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise ConfigError(
                f"{key}={folder} is in use by {owner}: wait until it ends, or name another folder"
            ) from error
        self._file.truncate(0)
        self._file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n")
        self._file.flush()
        _HELD.add(self)

    def close(self) -> None:
        """Release the lock."""
        self._file.close()

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


_HELD: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _drop_in_child() -> None:
    """Close the copies of a forked child, which would hold the lock after its parent's death."""
    for lock in list(_HELD):
        lock.close()


os.register_at_fork(after_in_child=_drop_in_child)


def _owner(text: str) -> str:
    try:
        note = json.loads(text)
        return f"process {int(note['pid'])} on {note['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"

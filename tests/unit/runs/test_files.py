"""A full disk is one clear line, whichever library met it first."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError

from sapo_vl.errors import SetupError
from sapo_vl.runs import files as disk

NO_NUMBER = (RuntimeError("unexpected pos 64 vs 0"), SafetensorError("No space left"), OSError("?"))


def fail(error: Exception, root) -> None:
    with disk.writing("the model", root):
        raise error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_the_systems_numbers_for_no_room(number, tmp_path):
    with pytest.raises(SetupError, match=r"no space left for the model in .*--resume"):
        fail(OSError(number, "no"), tmp_path)


@pytest.mark.parametrize("error", NO_NUMBER, ids=lambda error: type(error).__name__)
def test_an_error_without_number_on_a_full_disk(error, tmp_path, monkeypatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda root: SimpleNamespace(free=4096))
    with pytest.raises(SetupError, match="no space left"):
        fail(error, tmp_path)


@pytest.mark.parametrize(
    "error",
    [*NO_NUMBER, OSError(errno.EACCES, "no"), KeyError("x")],
    ids=lambda error: type(error).__name__,
)
def test_any_other_fault_stays_what_it_is(error, tmp_path, monkeypatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda root: SimpleNamespace(free=2**30))
    with pytest.raises(type(error)) as caught:
        fail(error, tmp_path)
    assert caught.value is error

"""Atomic writes, and one clear error for a full disk whichever library reports it."""

from __future__ import annotations

import errno
import json
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError

from sapo_vl.errors import SetupError
from sapo_vl.runs import files
from sapo_vl.runs.files import atomic_write, disk_full_guard, read_json, user_path, write_json

NO_ERRNO = (RuntimeError("unexpected pos 64 vs 0"), SafetensorError("No space left"), OSError("?"))


def fail(error: Exception, root) -> None:
    with disk_full_guard("the model", root):
        raise error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_disk_full_errno(number, tmp_path):
    with pytest.raises(SetupError, match=r"the model.*--resume"):
        fail(OSError(number, "no"), tmp_path)


@pytest.mark.parametrize("error", NO_ERRNO, ids=lambda error: type(error).__name__)
def test_error_without_errno_on_a_full_disk(error, tmp_path, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda root: SimpleNamespace(free=4096))
    with pytest.raises(SetupError, match="the model"):
        fail(error, tmp_path)


@pytest.mark.parametrize(
    "error",
    [*NO_ERRNO, OSError(errno.EACCES, "no"), KeyError("x")],
    ids=lambda error: type(error).__name__,
)
def test_any_other_error_is_raised_unchanged(error, tmp_path, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda root: SimpleNamespace(free=2**30))
    with pytest.raises(type(error)) as caught:
        fail(error, tmp_path)
    assert caught.value is error


def test_atomic_write_replaces_the_file_at_the_end_of_the_block(tmp_path):
    path = tmp_path / "new" / "x.txt"
    with atomic_write(path) as partial:
        partial.write_text("one")
        assert not path.exists()
    with atomic_write(path) as partial:
        partial.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two"
    assert [p.name for p in path.parent.iterdir()] == ["x.txt"]


@pytest.mark.parametrize("folder", [False, True])
def test_a_failed_atomic_write_leaves_nothing(folder, tmp_path):
    def write_half() -> None:
        with atomic_write(tmp_path / "x") as partial:
            if folder:
                partial.mkdir()
                (partial / "y").write_text("half")
            else:
                partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_atomic_write_of_a_folder_replaces_a_killed_write(tmp_path):
    (tmp_path / ".model.partial" / "torn").mkdir(parents=True)
    with atomic_write(tmp_path / "model") as partial:
        partial.mkdir()
        (partial / "weights").write_text("w")
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["weights"]


def test_atomic_write_of_a_folder_replaces_an_older_folder(tmp_path):
    for content in ("one", "two"):
        with atomic_write(tmp_path / "model") as partial:
            partial.mkdir()
            (partial / content).write_text(content)
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["two"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_users_place_that_fails_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "below"
    refused = pytest.raises(SetupError, match=f"--out={place} can't be used")
    with refused as caught, user_path("--out", place):
        place.mkdir()
    assert "\n" not in str(caught.value)
    with pytest.raises(OSError, match="No space"), user_path("--out", place):
        raise OSError(errno.ENOSPC, "No space")


def test_json_round_trip(tmp_path):
    value = {"é": [1, 0.5, None], "lone surrogate": "\ud800"}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert "é" in (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "x.json").read_bytes()) == value
    assert read_json(tmp_path / "none.json") is None

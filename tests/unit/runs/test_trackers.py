"""Trackers agree with metrics.jsonl after a resume, whatever they can do: stand-ins keep rows."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from sapo_vl.errors import SetupError
from sapo_vl.runs.metrics import MetricsWriter, drop, read, truncate
from sapo_vl.runs.trackers import Trackio, WandB


class WandbError(Exception):
    """As wandb.errors.Error."""


class WandbServer:
    """What wandb 0.31 was seen to do: runs by id, each with rows by `_step`."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[int, dict]] = {}
        self.names: dict[str, str] = {}
        self.mode = "online"
        self.rewinds, self.refuses = [], False

    def module(self) -> SimpleNamespace:
        """Return a stand-in of the package."""
        settings = SimpleNamespace(mode=self.mode)
        return SimpleNamespace(
            init=self._init,
            errors=SimpleNamespace(Error=WandbError),
            setup=lambda: SimpleNamespace(settings=settings),
        )

    def _init(
        self, *, project, name, dir, config, id=None, resume=None, resume_from=None
    ) -> SimpleNamespace:
        assert not (resume and resume_from), "mutually exclusive"
        if resume_from:
            id, _, step = resume_from.partition("?_step=")
            self.rewinds.append((id, int(step)))
            if self.refuses:
                raise WandbError("failed to rewind run: not enabled")
            self.runs[id] = {k: row for k, row in self.runs[id].items() if k <= int(step)}
        rows = self.runs.setdefault(id, {})
        self.names[id] = name

        def log(row: dict, step: int) -> None:
            if step > max(rows, default=-1):  # lower ones are ignored, with a warning
                rows[step] = row

        return SimpleNamespace(log=log, define_metric=lambda *a, **k: None, finish=lambda: None)


@pytest.fixture
def server(monkeypatch):
    made = WandbServer()
    monkeypatch.setitem(sys.modules, "wandb", made.module())
    return made


def write(run_dir, tracker, *steps: int, value: float = 0.5) -> None:
    writer = MetricsWriter(run_dir, {"a": 1}, [tracker])
    for step in steps:
        writer.write({"phase": "train", "step": step, "x": value, "no_verdict": {"a": 1}})
    writer.close()


def logged(server: WandbServer, name: str) -> list[tuple[int, float]]:
    (run,) = (rows for key, rows in server.runs.items() if server.names[key] == name)
    assert sorted(run) == list(range(len(run)))
    return [(run[i]["train/step"], run[i]["train/x"]) for i in sorted(run)]


def in_file(run_dir) -> list[tuple[int, float]]:
    return [(row["step"], row["x"]) for row in read(run_dir)]


def test_a_resumed_run_goes_on_in_wandb(server, tmp_path):
    write(tmp_path, WandB, 1, 2, 3)
    assert truncate(tmp_path, {"train": 3}) == 0
    write(tmp_path, WandB, 4)
    assert server.rewinds == []
    assert logged(server, tmp_path.name) == in_file(tmp_path)
    assert server.runs.popitem()[1][0] == {"train/step": 1, "train/x": 0.5}


def test_rows_beyond_the_checkpoint_are_rewound(server, tmp_path):
    write(tmp_path, WandB, 1, 2, 3, 4, 5)
    truncate(tmp_path, {"train": 3})
    write(tmp_path, WandB, 4, 5, value=0.9)
    ((_, step),) = server.rewinds
    assert step == 2  # the third row
    assert len(server.runs) == 1
    assert logged(server, tmp_path.name) == in_file(tmp_path)
    write(tmp_path, WandB, 6)  # and once only
    assert len(server.rewinds) == 1
    assert logged(server, tmp_path.name) == in_file(tmp_path)


def test_a_kill_after_the_rows_were_dropped_changes_nothing(server, tmp_path):
    write(tmp_path, WandB, 1, 2, 3, 4, 5)
    truncate(tmp_path, {"train": 3})
    truncate(tmp_path, {"train": 3})  # the second start finds nothing to drop
    drop(tmp_path, lambda row: row["step"] == 3)  # or less
    write(tmp_path, WandB, 3)
    assert [step for _, step in server.rewinds] == [1]
    assert logged(server, tmp_path.name) == in_file(tmp_path)


@pytest.mark.parametrize("offline", [True, False])
def test_where_a_run_cannot_be_rewound_a_new_one_gets_all_rows(
    server, tmp_path, monkeypatch, offline, capsys
):
    if offline:
        server.mode = "offline"
        monkeypatch.setitem(sys.modules, "wandb", server.module())
    server.refuses = True
    write(tmp_path, WandB, 1, 2, 3, 4)
    old = logged(server, tmp_path.name)
    truncate(tmp_path, {"train": 2})
    write(tmp_path, WandB, 3, value=0.9)
    assert logged(server, tmp_path.name) == old  # as it was
    assert logged(server, f"{tmp_path.name}-2") == in_file(tmp_path)
    assert ("not enabled" in capsys.readouterr().out) is not offline
    assert len(server.rewinds) == (0 if offline else 1)
    write(tmp_path, WandB, 4)
    assert logged(server, f"{tmp_path.name}-2") == in_file(tmp_path)


def test_a_run_that_gets_wandb_later_has_its_rows(server, tmp_path):
    MetricsWriter(tmp_path).close()
    writer = MetricsWriter(tmp_path)
    writer.write({"phase": "train", "step": 1, "x": 0.25})
    writer.close()
    write(tmp_path, WandB, 2)
    assert logged(server, tmp_path.name) == [(1, 0.25), (2, 0.5)]


def test_a_wandb_that_can_not_be_used_is_one_clear_line(server, tmp_path, monkeypatch):
    module = server.module()

    def refused(**options) -> None:
        raise WandbError("no key\nat all")

    module.init = refused
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(SetupError, match=r"no key\\nat all.*run\.wandb=false"):
        write(tmp_path, WandB, 1)


@pytest.fixture
def trackio_rows(tmp_path, monkeypatch):
    """Return a function that gives trackio's rows of each run: the package's, or a stand-in's."""
    if "trackio" in sys.modules or _installed():
        return _real_rows(tmp_path, monkeypatch)
    runs: dict[str, list[dict]] = {}

    def init(*, project, name, config, resume, embed) -> SimpleNamespace:
        assert (project, resume, embed) == ("sapo_vl", "allow", False)
        rows = runs.setdefault(name, [])
        return SimpleNamespace(
            log=lambda row, step: rows.append({**row, "step": step}), finish=lambda: None
        )

    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(init=init))
    return lambda: runs


def _installed() -> bool:
    from importlib.util import find_spec

    return find_spec("trackio") is not None


def _real_rows(tmp_path, monkeypatch):
    import trackio

    for module in [m for name, m in sys.modules.items() if name.startswith("trackio")]:
        if hasattr(module, "TRACKIO_DIR"):
            monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio-data")

    def rows() -> dict[str, list[dict]]:
        from trackio.sqlite_storage import SQLiteStorage

        return {
            run.name: SQLiteStorage.get_logs("sapo_vl", run.name)
            for run in trackio.Api().runs("sapo_vl")
        }

    return rows


def test_trackio_gets_a_new_run_where_rows_were_dropped(tmp_path, trackio_rows):
    run = tmp_path / "run"
    write(run, Trackio, 1, 2, 3)
    write(run, Trackio, 4)
    (first,) = trackio_rows()
    assert first.startswith("run-")
    truncate(run, {"train": 2})
    write(run, Trackio, 3, value=0.9)
    found = {
        name: [(row["train/step"], row["train/x"], row["step"]) for row in rows]
        for name, rows in trackio_rows().items()
    }
    assert found.pop(first) == [(1, 0.5, 1), (2, 0.5, 2), (3, 0.5, 3), (4, 0.5, 4)]
    ((second, rows),) = found.items()
    assert second.startswith("run-")
    assert rows == [(1, 0.5, 1), (2, 0.5, 2), (3, 0.9, 3)]


def test_a_missing_trackio_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(SetupError, match=r"run\.trackio needs the package trackio"):
        write(tmp_path, Trackio, 1)

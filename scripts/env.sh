# shellcheck shell=bash
# Sourced by the other scripts: sets up what is missing (with_dev=1: the tests' packages too) and
# defines $root, the checkout, and $python, the environment's interpreter.
here="$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")"
root="$(dirname -- "$here")"
venv="$(bash "$here/setup.sh" ${with_dev:+--dev})"
# shellcheck disable=SC2034 # used where this is sourced
python="$venv/bin/python"
# This checkout's code runs, whichever one the environment was made for.
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
# DeepSpeed and vLLM start `python`, `ninja` and the like by name.
export PATH="$venv/bin:$PATH"

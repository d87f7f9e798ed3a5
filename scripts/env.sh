# shellcheck shell=bash
# Sourced by the other scripts: runs setup.sh (with_dev=1: with the tests' packages) and sets $root,
# the checkout, and $python, the environment's interpreter.
here="$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")"
root="$(dirname -- "$here")"
if [[ "$root" == *:* ]]; then # PYTHONPATH can't hold it: another checkout's code would run
  echo "$(basename -- "$0"): the checkout's path has a colon, which Python can't use: $root" >&2
  exit 2
fi
venv="$(bash "$here/setup.sh" ${with_dev:+--dev})"
# shellcheck disable=SC2034 # used where this is sourced
python="$venv/bin/python"
# Run this checkout's code, whichever checkout the environment was made for.
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
# DeepSpeed and vLLM start `python`, `ninja` and others by name.
export PATH="$venv/bin:$PATH"

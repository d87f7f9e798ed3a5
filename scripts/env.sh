# shellcheck shell=bash
# Sourced by the other scripts: runs setup.sh (with_dev=1: with the tests' packages) and sets $root,
# the checkout, and $python, the environment's interpreter. With given_python=PATH that interpreter
# is used with the packages it has, and nothing is set up.
here="$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")"
root="$(dirname -- "$here")"
if [[ "$root" == *:* ]]; then # PYTHONPATH can't hold it: another checkout's code would run
  echo "$(basename -- "$0"): the checkout's path has a colon, which Python can't use: $root" >&2
  exit 2
fi
if [[ -n "${given_python:-}" ]]; then
  python="$(command -v -- "$given_python")" || {
    echo "$(basename -- "$0"): there is no program $given_python" >&2
    exit 2
  }
else
  venv="$(bash "$here/setup.sh" ${with_dev:+--dev})"
  python="$venv/bin/python"
  # DeepSpeed and vLLM start `python`, `ninja` and others by name.
  export PATH="$venv/bin:$PATH"
fi
# Run this checkout's code, whichever checkout the environment was made for.
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

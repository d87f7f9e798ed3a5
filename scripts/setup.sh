#!/usr/bin/env bash
# Make or check the virtual environment; `bash scripts/setup.sh --help` says how.
# environment.py does the work; this finds a Python that can run it.
set -euo pipefail

here="$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")"
candidates=("${SAPO_PYTHON:-}" python3 python3.12 python3.11 python3.13 python)
usable='import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'

for python in "${candidates[@]}"; do
  if [[ -n "$python" ]] && "$python" -c "$usable" >/dev/null 2>&1; then
    exec "$python" "$here/environment.py" "$@"
  fi
  if [[ -n "$python" && "$python" == "${SAPO_PYTHON:-}" ]]; then
    echo "setup: SAPO_PYTHON=$python is not a Python of version 3.11, 3.12 or 3.13" >&2
    exit 2
  fi
done
echo "setup: Python 3.11, 3.12 or 3.13 is needed; none is on PATH (SAPO_PYTHON can name one)" >&2
exit 2

#!/usr/bin/env bash
# Put answers from a grammar to the verifiers: other spellings of a gold answer must be equal to it,
# other values, units, orders and names must not be. Prints counts by kind and every failure.
#   bash scripts/fuzz_verifiers.sh                     100,000 of each, from seed 0
#   bash scripts/fuzz_verifiers.sh --count 2000 --kinds money quantity --seed 7
set -euo pipefail
# shellcheck source=scripts/env.sh
with_dev=1 source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/env.sh"
export PYTHONPATH="$root/scripts:$root/tests:$PYTHONPATH"
exec "$python" -m bench.fuzz_verifiers "$@"

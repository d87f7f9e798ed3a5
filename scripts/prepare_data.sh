#!/usr/bin/env bash
# Create the environment if needed and run `sapo-vl prepare` with the given arguments.
#   bash scripts/prepare_data.sh mathvision --source FOLDER --out FOLDER
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/env.sh"
exec "$python" -m sapo_vl.cli prepare "$@"

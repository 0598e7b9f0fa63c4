#!/usr/bin/env bash
# On a machine with a card, from a copy of this repository with build/gpu/1 to 3 (see pack.sh): the collapse experiment
# with SmolLM2-135M reading titles, within six minutes. Results: OUT, or build/gpu/results.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/gpu/environment.sh
exec python3 -m tests.gpu.study --output "${OUT:-build/gpu/results}" "$@"

#!/usr/bin/env bash
# On a machine with a card, from a copy of this repository: exactness, speed and memory, within four minutes.
# Packages that the machine lacks come as wheels from build/gpu/*/wheels (see pack.sh). Results: OUT, or build/gpu/results.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/gpu/environment.sh
exec python3 -m tests.gpu.check --output "${OUT:-build/gpu/results}" "$@"

#!/usr/bin/env bash
# Writes images/gpu/requirements.lock and images/tools.lock anew. Only metadata is fetched, no CUDA wheel.
# The gpu lock is requirements.lock plus what CUDA builds of the same versions need, plus bitsandbytes; a test holds
# the two in step. uv resolves, since pip would download each wheel; it asks the default index alone, because a
# folder with CPU wheels, as pip may be configured with, would win.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=build/lock-venv
[[ -x $venv/bin/uv ]] || { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet uv==0.13.9; }
compile() {
  UV_CACHE_DIR=build/uv-cache "$venv/bin/uv" --no-config pip compile --quiet --no-header --annotation-style line \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 "$@" >/dev/null
}
compile pyproject.toml --extra gpu --constraint requirements.lock --output-file images/gpu/requirements.lock
sed -i 's/, -c requirements.lock//; s/-c requirements.lock, //' images/gpu/requirements.lock
echo cyclonedx-bom==7.5.0 | compile - --output-file images/tools.lock

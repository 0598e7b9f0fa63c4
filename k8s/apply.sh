#!/usr/bin/env bash
# Applies an overlay to the cluster of kubectl's current context: k8s/apply.sh OVERLAY [--dry-run]
#   Refuses a params.env with values that are missing or still the examples. --dry-run prints what would be applied.
# Server-side, so that what Kubeflow Pipelines has set on a shared resource (its namespace, kfp-launcher) stays.
set -euo pipefail
cd "$(dirname "$0")"

fail() { echo "k8s/apply.sh: $*" >&2; exit 2; }
overlay=${1:-}
names=$(cd overlays && echo *)
[[ -n $overlay && -f overlays/$overlay/kustomization.yaml ]] || fail "the overlay must be one of $names, got '$overlay'."
[[ ${2:-} == '' || ${2:-} == --dry-run ]] || fail "unknown option '$2'. Usage: k8s/apply.sh OVERLAY [--dry-run]"

params=overlays/${overlay%-standalone}/params.env
if [[ -f $params ]]; then
  problems=$(awk -F= '$2 == "" { print $1 ": has no value" } $2 ~ /example-/ { print $1 ": is still the example, " $2 }' "$params")
  [[ -z $problems ]] || fail "k8s/$params must hold your values, but"$'\n'"$problems"
fi
command -v kubectl >/dev/null || fail "kubectl must be on PATH. Install it."
rendered=$(kubectl kustomize "overlays/$overlay") || fail "k8s/overlays/$overlay can't be rendered, see above."
if [[ ${2:-} == --dry-run ]]; then
  printf '%s\n' "$rendered"
else
  kubectl apply --server-side --force-conflicts --field-manager dynamicpo --filename - <<<"$rendered"
fi

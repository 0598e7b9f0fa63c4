#!/usr/bin/env bash
# Applies an overlay to the cluster of kubectl's current context: k8s/apply.sh OVERLAY [--retry-failures] [--dry-run]
#   Refuses a params.env with values that are missing or still the examples. --dry-run prints what would be applied.
#   --retry-failures also lets Argo's workflow controller try failed tasks again, those of every pipeline of the installation
#   (workflow-controller/retries.yaml); it needs `make install`.
# Server-side, so that what Kubeflow Pipelines has set on a shared resource (its namespace, kfp-launcher) stays.
set -euo pipefail
cd "$(dirname "$0")"

fail() { echo "k8s/apply.sh: $*" >&2; exit 2; }
overlay=${1:-} dry_run='' retry_failures=''
names=$(cd overlays && echo *)
[[ -n $overlay && -f overlays/$overlay/kustomization.yaml ]] || fail "the overlay must be one of $names, got '$overlay'."
for option in "${@:2}"; do
  case $option in
    --dry-run) dry_run=yes ;;
    --retry-failures) retry_failures=yes ;;
    *) fail "unknown option '$option'. Usage: k8s/apply.sh OVERLAY [--retry-failures] [--dry-run]" ;;
  esac
done

params=overlays/${overlay%-standalone}/params.env
if [[ -f $params ]]; then
  problems=$(awk -F= '$2 == "" { print $1 ": has no value" } $2 ~ /example-/ { print $1 ": is still the example, " $2 }' "$params")
  [[ -z $problems ]] || fail "k8s/$params must hold your values, but"$'\n'"$problems"
fi
command -v kubectl >/dev/null || fail "kubectl must be on PATH. Install it."
rendered=$(kubectl kustomize "overlays/$overlay") || fail "k8s/overlays/$overlay can't be rendered, see above."
controller=''
if [[ -n $retry_failures ]]; then
  python=../.venv/bin/python
  [[ -x $python ]] || fail "--retry-failures needs .venv. Run \`make install\`."
  live=$(kubectl --namespace kubeflow get configmap workflow-controller-configmap --output json) ||
    fail "the workflow controller's settings can't be read, see above. Install Kubeflow Pipelines first."
  controller=$("$python" workflow_defaults.py workflow-controller/retries.yaml <<<"$live") ||
    fail "the workflow controller's settings can't be merged, see above. Nothing was applied."
fi
if [[ -n $dry_run ]]; then
  printf '%s\n' "$rendered"
  [[ -z $controller ]] || printf -- '---\n%s\n' "$controller"
  exit
fi
apply() { kubectl apply --server-side --force-conflicts --field-manager dynamicpo --filename - <<<"$1"; }
apply "$rendered"
if [[ -n $controller ]]; then
  apply "$controller"
  # It watches its settings; the restart makes sure that the next workflow has them. Running ones go on.
  kubectl --namespace kubeflow rollout restart deployment workflow-controller
fi

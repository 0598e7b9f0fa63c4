#!/usr/bin/env bash
# Makes and removes GPU node pools on GKE: one on demand, one spot, both at zero nodes until a pod asks for a GPU.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: node-pools.sh create|delete --project ID --cluster NAME --location PLACE [options]

  --location PLACE     the cluster's zone or region
  --gpu TYPE           GPU type (default nvidia-l4); the names are those of GKE's accelerators
  --gpus-per-node N    (default 1)
  --capacity WHICH     on-demand, spot or both (default both)
  --max-nodes N        most nodes of each pool (default 4); the least is 0
  --driver VERSION     NVIDIA driver: default or latest (default: default)
  --disk-size GB       boot disk: images, base models, scratch (default 200)
  --node-account MAIL  service account of the nodes (default: dynamicpo-nodes@ID.iam.gserviceaccount.com)
  --dry-run            print the commands and run none of them

The pools carry the labels and taints that the overlays' flavors and the pipelines' placement name. A test compares them.
TEXT
}

fail() { echo "node-pools.sh: $*" >&2; exit 2; }

# GPU type and GPUs per node to machine type
machine_type() {
  case $1:$2 in
    nvidia-tesla-t4:[124]) echo n1-standard-8 ;;
    nvidia-l4:1) echo g2-standard-12 ;;
    nvidia-l4:2) echo g2-standard-24 ;;
    nvidia-l4:4) echo g2-standard-48 ;;
    nvidia-l4:8) echo g2-standard-96 ;;
    nvidia-tesla-a100:[1248]) echo "a2-highgpu-${2}g" ;;
    nvidia-a100-80gb:[1248]) echo "a2-ultragpu-${2}g" ;;
    nvidia-h100-80gb:8) echo a3-highgpu-8g ;;
    nvidia-tesla-t4:*) fail "--gpus-per-node: $1 must be 1, 2 or 4 to a node, got $2." ;;
    nvidia-h100-80gb:*) fail "--gpus-per-node: $1 must be 8 to a node, got $2." ;;
    nvidia-l4:* | nvidia-tesla-a100:* | nvidia-a100-80gb:*)
      fail "--gpus-per-node: $1 must be 1, 2, 4 or 8 to a node, got $2." ;;
    *) fail "--gpu: unknown type '$1'; choose from nvidia-tesla-t4, nvidia-l4, nvidia-tesla-a100," \
      "nvidia-a100-80gb, nvidia-h100-80gb." ;;
  esac
}

action=${1:-}
case $action in
  create | delete) shift ;;
  -h | --help) usage; exit 0 ;;
  *) usage >&2; fail "the first word must be create or delete, got '$action'." ;;
esac
project='' cluster='' location='' gpu=nvidia-l4 gpus=1 capacity=both max_nodes=4 driver=default disk=200 account='' dry_run=''
while (($#)); do
  case $1 in
    --dry-run) dry_run=1; shift; continue ;;
    -h | --help) usage; exit 0 ;;
    --*) (($# > 1)) || fail "$1 needs a value." ;;
  esac
  case $1 in
    --project) project=$2 ;;
    --cluster) cluster=$2 ;;
    --location) location=$2 ;;
    --gpu) gpu=$2 ;;
    --gpus-per-node) gpus=$2 ;;
    --capacity) capacity=$2 ;;
    --max-nodes) max_nodes=$2 ;;
    --driver) driver=$2 ;;
    --disk-size) disk=$2 ;;
    --node-account) account=$2 ;;
    *) fail "unknown option '$1'. See node-pools.sh --help." ;;
  esac
  shift 2
done
for name in project cluster location; do
  [[ -n ${!name} ]] || fail "--$name must be given."
done
[[ $capacity =~ ^(on-demand|spot|both)$ ]] || fail "--capacity: must be on-demand, spot or both, got '$capacity'."
[[ $driver =~ ^(default|latest)$ ]] || fail "--driver: must be default or latest, got '$driver'."
[[ $max_nodes =~ ^[1-9][0-9]*$ ]] || fail "--max-nodes: must be a whole number >= 1, got '$max_nodes'."
[[ $gpus =~ ^[1-9][0-9]*$ ]] || fail "--gpus-per-node: must be a whole number >= 1, got '$gpus'."
[[ $disk =~ ^[1-9][0-9]*$ ]] || fail "--disk-size: must be a whole number >= 1, got '$disk'."
machine=$(machine_type "$gpu" "$gpus")
account=${account:-dynamicpo-nodes@$project.iam.gserviceaccount.com}
[[ -n $dry_run ]] || command -v gcloud >/dev/null || fail "gcloud must be on PATH. Install it, or see the commands with --dry-run."

run() {
  printf '%q ' "$@" && echo
  [[ -n $dry_run ]] || "$@"
}

for kind in on-demand spot; do
  [[ $capacity == both || $capacity == "$kind" ]] || continue
  pool=dynamicpo-$gpu-$gpus-$kind
  place=(--project "$project" --cluster "$cluster" --location "$location")
  if [[ $action == delete ]]; then
    run gcloud container node-pools delete "$pool" "${place[@]}" --quiet
    continue
  fi
  labels=dynamicpo/capacity=$kind
  taints=nvidia.com/gpu=present:NoSchedule
  spot=()
  if [[ $kind == spot ]]; then
    taints+=,cloud.google.com/gke-spot=true:NoSchedule
    spot=(--spot)
  fi
  run gcloud container node-pools create "$pool" "${place[@]}" "${spot[@]}" \
    --machine-type "$machine" --accelerator "type=$gpu,count=$gpus,gpu-driver-version=$driver" \
    --num-nodes 0 --enable-autoscaling --total-min-nodes 0 --total-max-nodes "$max_nodes" --location-policy ANY \
    --node-labels "$labels" --node-taints "$taints" \
    --disk-type pd-balanced --disk-size "$disk" --enable-image-streaming \
    --service-account "$account" --workload-metadata GKE_METADATA --shielded-integrity-monitoring \
    --enable-autoupgrade --enable-autorepair
done

#!/usr/bin/env bash
# Builds the image of a commit: images/build.sh cpu|gpu NAME[:TAG]
#   The packages are fetched on this machine with its own pip configuration, those of the lock files by their hashes, so
#   the build itself needs no network. Writes the bill of materials and the package list to build/images/<runtime>/.
#   env: BASE_IMAGE   a base with Python 3.11 and venv (default: python:3.11-slim-bookworm)
#        BY_DIGEST=1  refuse a base that is not named by its digest; the workflows set it
#        TORCH_INDEX  the index that cpu takes torch from, and nothing else (default: pip's own, whose torch is CUDA's)
#        PYTHON       the Python 3.11 that fetches (default: .venv's, else python3)
#        DOCKER       the client (default: docker)
#        COMMIT       what to build (default: HEAD); changes that are not committed are never in an image
#        SOURCE_URL   for the image's label
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "images/build.sh: $1" >&2; exit 2; }
runtime=${1:-} image=${2:-} torch=() locks=(requirements-build.lock requirements.lock requirements-data.lock)
case $runtime in
  cpu)
    if [[ -n ${TORCH_INDEX:-} ]]; then torch=(--index-url "$TORCH_INDEX"); fi
    hint="Set TORCH_INDEX to the index of CPU wheels that PyTorch's installation page names." ;;
  gpu)
    locks+=(requirements-gpu.lock)
    hint="pip's index must have the CUDA build, and its configuration no folder with another." ;;
  *) fail "the runtime must be 'cpu' or 'gpu', got '${runtime}'. Usage: images/build.sh cpu|gpu NAME[:TAG]" ;;
esac
[[ -n $image ]] || fail "the image must have a name, got none. Usage: images/build.sh $runtime NAME[:TAG]"
base=${BASE_IMAGE:-python:3.11-slim-bookworm}
[[ -z ${BY_DIGEST:-} || $base =~ @sha256:[0-9a-f]{64}$ ]] ||
  fail "BASE_IMAGE must name a base by its digest (NAME@sha256:...), got '${BASE_IMAGE:-}'. Set the repository's variable."
# a client of 23 or later builds with BuildKit only through its buildx plugin; Debian's own needs none
can_build() { "$1" buildx version || [[ $("$1" version --format '{{.Client.Version}}') =~ ^(19|20)\. ]]; }
docker=${DOCKER:-docker}
can_build "$docker" >/dev/null 2>&1 || docker=/usr/bin/docker
can_build "$docker" >/dev/null 2>&1 || fail "docker must build with BuildKit, but it has no buildx. Install it, or set DOCKER."
"$docker" info >/dev/null 2>&1 || fail "a Docker engine must answer, but none does. Start one, or set DOCKER_HOST."

python=${PYTHON:-.venv/bin/python}
[[ -x $python ]] || python=python3
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || fail "$python must be Python 3.11. Set PYTHON."

commit=$(git rev-parse --verify "${COMMIT:-HEAD}^{commit}")
git diff --quiet HEAD || echo "images/build.sh: building ${commit:0:12}, without the changes that are not committed" >&2
context=build/images/$runtime
source=$context/source
rm -rf "$source" && mkdir -p "$source" "$context/package"
git archive "$commit" | tar -x -C "$source"
export SOURCE_DATE_EPOCH
SOURCE_DATE_EPOCH=$(git show -s --format=%ct "$commit")
rm -f "$context"/*.lock
cp "$source"/requirements{-torch,-build,,-data}.lock "$context/"
cp "$source/images/gpu/requirements.lock" "$context/requirements-gpu.lock"
cp "$source"/images/{tools.lock,smoke.py} "$source/images/$runtime/Dockerfile" "$context/"

# Nothing is fetched but by its hash, not even what builds the one package without a wheel, and ours: pip's isolated builds
# would take the newest setuptools.
python_of_builds=build/images/python
pip() { "$python_of_builds/bin/pip" "$1" -qq --disable-pip-version-check --no-deps "${@:2}"; }
if ! cmp -s "$context/requirements-build.lock" "$python_of_builds/installed"; then
  rm -rf "$python_of_builds" && "$python" -m venv "$python_of_builds"
  pip install --require-hashes --requirement "$context/requirements-build.lock"
  cp "$context/requirements-build.lock" "$python_of_builds/installed"
fi
as_sources=(--use-pep517 --no-build-isolation)
# fetch FOLDER ARGUMENT...: what lock files name; kept where an earlier build fetched it
fetch() {
  local folder=$1 wanted
  shift
  wanted=$(echo "$@" && cat "$context"/*.lock)
  [[ $(cat "$folder.for" 2>/dev/null) == "$wanted" ]] && return
  rm -rf "$folder" "$folder.for" && mkdir -p "$folder"
  pip download "${as_sources[@]}" --dest "$folder" "$@"
  echo "$wanted" >"$folder.for"
}
fetch "$context/torch" "${torch[@]}" --requirement "$context/requirements-torch.lock"
for wheel in "$context"/torch/torch-*.whl; do
  build=cpu
  if "$python" -m zipfile -l "$wheel" | grep -q 'lib/libtorch_cuda'; then build=gpu; fi
  [[ $build == "$runtime" ]] || fail "torch must be a build for $runtime, got ${wheel##*/}, one for $build. $hint"
done
fetch "$context/wheels" --require-hashes "${locks[@]/#/--requirement=$context/}"
fetch "$context/tools" --require-hashes --requirement "$context/tools.lock"
rm -f "$context"/package/*
pip wheel "${as_sources[@]}" --wheel-dir "$context/package" "$source"
version=$(basename "$context"/package/dynamicpo-*.whl | cut -d- -f2)
printf '%s\n' '*' '!torch' '!wheels' '!tools' '!package' '!*.lock' '!smoke.py' >"$context/.dockerignore"

network=none
if [[ $runtime == gpu ]]; then network=default; fi # Debian's gcc, see the Dockerfile
DOCKER_BUILDKIT=1 "$docker" build --network "$network" --tag "$image" --build-arg BASE_IMAGE="$base" \
  --build-arg VERSION="$version" --build-arg REVISION="$commit" --build-arg SOURCE="${SOURCE_URL:-}" "$context"

for file in sbom.cdx.json packages.txt; do
  "$docker" run --rm --network none "$image" cat "/usr/share/dynamicpo/$file" >"$context/$file"
done
echo "$image: $runtime, dynamicpo $version of ${commit:0:12}, $(wc -l <"$context/packages.txt") packages," \
  "$(($("$docker" image inspect --format '{{.Size}}' "$image") / 1000000)) MB; bill of materials in $context/sbom.cdx.json"

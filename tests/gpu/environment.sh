# Sourced by check.sh and study.sh: wheels that were brought along, and quiet libraries.
site=${TMPDIR:-/tmp}/dynamicpo-gpu-site
wheels=(build/gpu/*/wheels/*.whl)
if [ -e "${wheels[0]}" ] && [ ! -d "$site" ]; then
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "${wheels[@]}"
fi
export PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
# Compiled kernels are shared by all parts; memory that one part gave back is not lost to fragments.
export TORCHINDUCTOR_CACHE_DIR="${TMPDIR:-/tmp}/dynamicpo-gpu-kernels" PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True

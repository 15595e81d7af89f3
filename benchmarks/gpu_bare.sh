#!/bin/sh
# On a bare CUDA machine, in the checkout: unpack build/gpu-pack (`make gpu-pack`) and run everything.
#
#   sh benchmarks/gpu_bare.sh OUT [more flags of benchmarks/gpu.py]
#
# Needs python3 (3.12) with torch for CUDA 13; installs nothing. The report is in OUT.
set -eu
pack=build/gpu-pack
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
python3 -m tarfile --filter data -e "$pack/site.tar.xz" "$site"
out=$1
shift
PYTHONPATH="$site:$PWD${PYTHONPATH:+:$PYTHONPATH}" HANSANG_COMMIT=$(cat "$pack/commit") \
  python3 benchmarks/gpu.py --out "$out" "$@"

#!/usr/bin/env bash
# Speed on a GPU, then RefineNet beside FCN on CamVid, on a machine without a network and without our dependencies.
#
#   benchmarks/gpu_session.sh prepare CAMVID VGG16.safetensors     with a network: fills gpu_kit/, which is to be carried along
#   benchmarks/gpu_session.sh run OUT [FROM] [epochs=30 ...]       on the GPU, until it says that nothing is left
#
# OUT gets a few small files. FROM is a folder with those of an earlier call, which is then gone on with. gpu_session.py has
# the options. TINY=1 tries all of it on a CPU. PYTHONS="3.12 3.13": the versions of Python that prepare fetches wheels for.
set -euo pipefail
cd "$(dirname "$0")/.."
kit=${KIT:-gpu_kit} work=${WORK:-gpu_work} python=${PYTHON:-python3}
session() { "$python" benchmarks/gpu_session.py "$@"; }

prepare() { # CAMVID VGG16
  rm -rf "$kit"
  mkdir -p "$kit/wheels"
  mapfile -t pure < <(session requirements hydra-core omegaconf)
  mapfile -t compiled < <(session requirements pydantic annotated-types)
  # antlr4 comes as source only, in the version that both of the others ask for.
  "$python" -m pip wheel -q --no-deps -w "$kit/wheels" "${pure[@]}" 'antlr4-python3-runtime==4.9.*'
  for version in ${PYTHONS:-3.12}; do
    "$python" -m pip download -q --only-binary=:all: --python-version "$version" --platform manylinux_2_17_x86_64 \
      --platform manylinux2014_x86_64 -d "$kit/wheels" "${compiled[@]}"
  done
  session pack "$kit" "$@"
}

run() { # OUT [FROM] [OPTION=VALUE ...]
  mkdir -p "$work"
  session unpack "$kit" "$work"
  mapfile -t wheels < <(session missing "$work/kit/wheels")
  if [ ${#wheels[@]} -gt 0 ]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$work/site" "${wheels[@]}"
  fi
  export PYTHONPATH="$PWD/src:$work/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
  session run "$work" "spent=$SECONDS" "$@"
}

case ${1:-} in
  prepare | run) "$@" ;;
  *) sed -n '2,/^set/{/^set/!p}' "$0" >&2 && exit 2 ;;
esac

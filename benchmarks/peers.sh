#!/usr/bin/env bash
# Every network beside its peer, as docs/performance.md shows them: benchmarks/peers.sh OUTPUT_FOLDER [rounds=5 ...]
# Further options go to every line, such as batch_size=8 'size=[512,512]' for a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
output=$1
shift
measure() { # NAME OPTIONS...
  python -m segrefine.benchmark output="$output/$1.json" "${@:2}"
}
same=(peer_precision=bf16-mixed peer_channels_last=true)
measure lw50 model=refinenet_lw backbone=resnet50 peer=benchmarks/peers.py:rf_lw50 'size=[256,256]' batch_size=2 "$@"
measure fcn_dilated model=fcn_dilated backbone=resnet50 peer=benchmarks/peers.py:fcn_resnet50 'size=[256,256]' batch_size=2 "${same[@]}" "$@"
measure lw50_fpn model=refinenet_lw backbone=resnet50 peer=benchmarks/peers.py:fpn_resnet50 'size=[256,256]' batch_size=2 "${same[@]}" "$@"
measure fcn8s model=fcn8s backbone=vgg16 peer=benchmarks/peers.py:fcn8s 'size=[256,256]' batch_size=2 "$@"
measure fcn8s_caffe_fp32 model=fcn8s model.geometry=caffe backbone=vgg16 precision=32-true peer=benchmarks/peers.py:fcn8s 'size=[256,256]' batch_size=2 "$@"
measure fcn8s_caffe model=fcn8s model.geometry=caffe backbone=vgg16 peer=benchmarks/peers.py:fcn8s 'size=[256,256]' batch_size=2 "$@"
measure refinenet101 model=refinenet backbone=resnet101 peer=benchmarks/peers.py:rf101 'size=[256,256]' batch_size=1 "$@"
measure bands model=refinenet_lw backbone=resnet50 num_classes=150 peer=benchmarks/peers.py:whole_logits 'size=[512,512]' batch_size=2 "${same[@]}" "$@"

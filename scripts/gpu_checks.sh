#!/usr/bin/env bash
# What a machine with an NVIDIA GPU has to show: parity on CUDA, the quickstart's configuration on
# the GPU in bf16, torchrun with nccl, and the full-size models with random weights (80 GB). Needs a
# Python with the requirements installed.
#   PYTHON=python3 bash scripts/gpu_checks.sh [folder for results]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
out=${1:-output/gpu}
export PYTHONPATH=.

"$python" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name())'
"$python" -m pytest -q -m gpu tests
[[ -f data/shapes/world.json ]] ||
    "$python" -m dynrefer.datasets.shapes --out data/shapes --images 2400 --seed 0
[[ -f output/encoder/trainable.safetensors ]] ||
    "$python" scripts/pretrain_encoder.py --cfg-path configs/train/shapes.yaml --out output/encoder
gpu_options=(run.device=cuda run.amp=true run.precision=bf16 run.num_workers=4)
"$python" train.py --cfg-path configs/train/shapes.yaml \
    --options "${gpu_options[@]}" run.output_dir="$out/quickstart"
"$python" -m torch.distributed.run --standalone --nproc_per_node=1 train.py \
    --cfg-path configs/train/shapes.yaml --options "${gpu_options[@]}" run.output_dir="$out/nccl" \
    run.max_epoch=1 datasets.shapes.build_info.max_imgs=320 "run.valid_splits=[]" \
    "run.test_splits=[]"
"$python" scripts/benchmark_deformable.py --device cuda
"$python" scripts/benchmark_full_size.py | tee "$out/full_size.md"
echo "results in $out; copy the figures with device and date to docs/benchmarks.md"

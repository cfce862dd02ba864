#!/usr/bin/env bash
# From nothing to a trained DynRefer: installs, renders the shapes world, pretrains an encoder, trains
# DynRefer and a model that sees the region alone, evaluates both, prints the table beside chance,
# draws a picture.
#   bash scripts/quickstart.sh            goes on where an earlier call stopped
#   bash scripts/quickstart.sh --fresh    trains again (deletes output/{encoder,shapes,shapes_view0})
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

result=metrics-shapes-test-last.json # what train.py writes last
processes=$(($(getconf _NPROCESSORS_ONLN) > 1 ? 2 : 1))
world_options=()
times=()

stage() { # name, command ...
    local start=$SECONDS
    printf '\n== %s\n' "$1"
    "${@:2}"
    times+=("$(printf '%-32s%5d s' "$1" $((SECONDS - start)))")
}

render() {
    .venv/bin/python -m dynrefer.datasets.shapes --out data/shapes --images 2400 --seed 0 \
        ${world_options[@]+"${world_options[@]}"}
}

pretrain() {
    if [[ -f output/encoder/trainable.safetensors ]]; then
        echo "pretrained already: output/encoder (--fresh repeats it)"
        return
    fi
    .venv/bin/torchrun --standalone --nproc_per_node="$processes" scripts/pretrain_encoder.py \
        --cfg-path configs/train/shapes.yaml --out output/encoder
}

train() { # configuration, folder of its run
    local config=$1 output=$2
    if [[ -f $output/$result ]]; then
        echo "trained and evaluated already: $output/$result (--fresh repeats it)"
        return
    fi
    # One process a core, two at most; the global batch stays 16, so the result does too.
    .venv/bin/torchrun --standalone --nproc_per_node="$processes" train.py --cfg-path "$config" \
        --options run.resume=auto run.batch_size_train=$((16 / processes))
}

compare() {
    .venv/bin/python scripts/compare_results.py --truth configs/train/shapes.yaml \
        --metrics "view 0 only=output/shapes_view0/$result" "DynRefer=output/shapes/$result" \
        --out output/shapes/results.md
}

case "${1:-}" in
"") ;;
--fresh)
    rm -rf output/encoder output/shapes output/shapes_view0
    world_options=(--overwrite)
    ;;
*)
    echo "usage: bash scripts/quickstart.sh [--fresh]" >&2
    exit 2
    ;;
esac

stage "install" bash scripts/install.sh
stage "render the shapes world" render
stage "pretrain the encoder" pretrain
stage "train and evaluate DynRefer" train configs/train/shapes.yaml output/shapes
stage "train and evaluate view 0 only" train configs/train/shapes_view0.yaml output/shapes_view0
stage "compare" compare
stage "picture" bash scripts/demo_shapes.sh --out output/shapes/demo.png

printf '\nresults: output/shapes/results.md    picture: output/shapes/demo.png\n\n'
printf '%s\n' "${times[@]}" "$(printf '%-32s%5d s' "in all" "$SECONDS")"

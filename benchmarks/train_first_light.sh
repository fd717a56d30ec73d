#!/usr/bin/env bash
# Trains everything that benchmarks/first_light.py compares; skips what is already there.
#   bash benchmarks/train_first_light.sh earth            (about 3 hours on one core)
#   CRISPMASK_DATA=FOLDER bash benchmarks/train_first_light.sh camvid
set -euo pipefail
data=$1
run() { # NAME RECIPE [options]
  local name=$1
  shift
  [ -f "runs/$name/model.safetensors" ] || crispmask train "$@" --output "runs/$name"
}
if [ "$data" = camvid ]; then
  run camvid-base-start camvid-base-start
fi
run "$data-base" "$data-base" --loop.eval-images 0
if [ "$data" = earth ]; then
  run earth-base-longer earth-base --loop.steps 1200 --loop.eval-every 300 --loop.eval-images 20
  for fold in 0 1 2 3 4; do
    run "earth-base-fold-$fold" earth-base --folds 5 --fold "$fold" --loop.eval-images 0
  done
else
  run camvid-base-dice camvid-base-dice
  run camvid-base-longer camvid-base-longer
fi
for seed in 0 1 2; do
  run "$data-refiner-$seed" "$data-refiner" --loop.seed "$seed" --loop.eval-images 20
  run "$data-control-$seed" "$data-control" --loop.seed "$seed" --loop.eval-images 20
  if [ "$data" = earth ]; then # on CamVid the val images are the ones that are measured
    for kind in refiner control; do
      [ -f "runs/earth-$kind-$seed/calibration.json" ] ||
        crispmask calibrate "runs/earth-$kind-$seed" earth:val --base runs/earth-base
    done
  fi
done

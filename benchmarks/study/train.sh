#!/usr/bin/env bash
# Trains the networks of the study one after the other, and goes on where it was stopped.
#
#     nohup nice -n 10 bash benchmarks/study/train.sh DATA FOLDER > queue.log 2>&1 &
#
# DATA is a name such as cifar10:.data/cifar10.npz. Every network gets a folder of its own in FOLDER
# with checkpoints, weights and card. A network that is finished is not trained again. Start the
# command once only: a second one would train the same network beside the first.
set -u
data=$1
runs=$2
here=$(cd "$(dirname "$0")/../.." && pwd)
export PYTHONPATH=$here/src OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# Large blocks of memory are kept, which saves about a seventh of the time (glibc).
export MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000

train() { # NETWORK SEED [OPTIONS]
    local network=$1 seed=$2
    shift 2
    local folder=$runs/${network/:/-w}-s$seed
    [ -e "$folder/result.json" ] && return
    local resume=()
    [ -e "$folder/last.ckpt" ] && resume=(--resume)
    date "+%F %T $network seed $seed ${resume[*]:-}"
    "${PYTHON:-python3}" -m transpike train "$network" --data "$data" -o "$folder" --seed "$seed" \
        "$@" "${resume[@]}"
}

for seed in 0 1 2; do
    train resnet18:16 $seed
    train plainnet18:16 $seed
    [ $seed = 0 ] && train vgg18:16 0
done
train resnet50:16 0
train resnet101-basic:16 0
train resnet101:16 0

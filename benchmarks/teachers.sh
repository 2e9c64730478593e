#!/bin/sh
# Trains the tabletop teachers that mmkd ships, on clips that no default data set holds (source.seed 1000), and puts
# them into mmkd/zoo/tabletop. Two trainings at a time, one thread each.
set -eu
PYTHON=${PYTHON:-python}
DATA="--data.folder tabletop-teachers"

test -f "${MMKD_HOME:-$HOME/mmkd}/data/tabletop-teachers/dataset.json" ||
    $PYTHON rayjobs/pack.py $DATA --source.seed 1000 --source.train 6000 --source.val 500 --source.test 500

train() {
    $PYTHON rayjobs/train_teacher.py $DATA --run.local --resources.threads 1 --run.name "zoo-$1" \
        --teacher.modality "$@"
}
train rgb --optim.epochs 12 --optim.weight_decay 0.05 &
train flow --optim.epochs 12 --optim.weight_decay 0.05
wait
train audio --optim.epochs 10 --optim.weight_decay 0.05 &
train boxes --optim.epochs 16 --optim.weight_decay 0.05 --optim.lr 1e-3
wait
for modality in rgb flow audio boxes; do
    mkdir -p "mmkd/zoo/tabletop/$modality"
    cp "${MMKD_HOME:-$HOME/mmkd}/runs/zoo-$modality/best/"* "mmkd/zoo/tabletop/$modality/"
done

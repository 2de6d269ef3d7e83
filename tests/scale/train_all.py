"""Trains all shards of some arms in one process, by the command line: python train_all.py STUDY.yaml RESULTS ARM…"""

import sys

from emergent_equivariance.cli import app
from emergent_equivariance.study import load_study


def main(file, results, *arms):
    study = load_study(file, results)
    for arm in map(study.arm, arms):
        for first, last in study.shards(arm):
            shard = ["--arm", arm.path, "--first", str(first), "--last", str(last)]
            app(["train", file, *shard, "--results", results], standalone_mode=False)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Train the pool, for now."""

import argparse
from pathlib import Path

import torch
from score_pool import train_pool

parser = argparse.ArgumentParser()
parser.add_argument("stage", choices=["train"])
parser.add_argument("--data", type=Path, default=Path("data/phantom"))
parser.add_argument("--pool", type=Path, default=Path("results/score_pool"))
options = parser.parse_args()
torch.set_num_threads(1)
train_pool(options.pool, options.data, configurations=24, seeds=2, steps=320, every=40, precision="bf16")

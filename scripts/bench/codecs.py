"""Accuracy against bytes: what each codec costs and saves, by the node's own training, encoding and mixing.

    python scripts/bench/codecs.py [--tasks mnist-cnn,fashion-softmax] [--codecs float32,int8,topk:0.2] [--json]

Members with equal shares, equal weights and a full cohort, so that all have the same mixture after each round: its
accuracy on the common test set after the last one is what counts. `times_fewer` is the bytes of float32 payloads over
those of this codec's. The default is a short run (a few minutes on one core, the CNN takes an eighth of an epoch per
round); --epochs 1 is what a node does.
"""

import argparse
import hashlib
import json
import sys
import time
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from node.errors import NodeError
from node.learning import trainer
from node.learning.codecs import Codec, Past, codec
from node.learning.mixing import mix, quantise
from node.learning.task import Learner, LocalSplit, Share, prepare
from node.learning.task_files import load_task

CNN_EPOCHS = 1 / 8
DEFAULT_CODECS = "float32,bfloat16,int8,topk:0.2"


@dataclass(frozen=True)
class Setting:
    members: int
    rounds: int
    epochs: float | None
    split: str
    seed: int


@dataclass(frozen=True)
class Row:
    task: str
    codec: str
    accuracy: float  # percent, mean over members
    points_below_float32: float | None
    bytes_per_update: float
    times_fewer: float
    seconds: float


@dataclass
class Member:
    data: LocalSplit
    flat: Tensor
    generator: torch.Generator
    residual: Tensor | None = None
    announced: bytes | None = None


def update(learner: Learner, member: Member, chosen: Codec, store: dict[bytes, bytes]) -> bytes:
    """What TorchLearner does in a round: train, encode, remember."""
    start = member.flat
    steps = learner.task.steps_per_round(len(member.data.train))
    trained = trainer.train(learner, start, member.data.train, trainer.Plan(steps, member.generator))
    encoded = chosen.encode(learner.spec, trained.flat, member.residual, Past(start, member.announced, store.get))
    member.residual = encoded.residual
    member.announced = hashlib.sha256(encoded.payload).digest()
    store[member.announced] = encoded.payload
    return encoded.payload


def run(learner: Learner, splits: list[LocalSplit], chosen: Codec, setting: Setting) -> tuple[float, float, float]:
    """Accuracy of the last mixture in percent, mean bytes of an update, seconds."""
    seeds = range(setting.seed * 1000, setting.seed * 1000 + len(splits))
    members = [
        Member(data, learner.initial(), torch.Generator().manual_seed(seed))
        for data, seed in zip(splits, seeds, strict=True)
    ]
    weights, store, sent = quantise(np.ones(len(members))), {}, 0
    began = time.perf_counter()
    for _ in range(setting.rounds):
        payloads = [update(learner, member, chosen, store) for member in members]
        sent += sum(map(len, payloads))
        mixed = mix([chosen.decode(learner.spec, payload, store.get) for payload in payloads], weights)
        for member in members:
            member.flat = mixed
    seconds = time.perf_counter() - began
    accuracy = trainer.evaluate(learner, members[0].flat, members[0].data.test)["accuracy"]
    return 100 * accuracy, sent / setting.rounds / len(members), seconds


def measure(name: str, codecs: list[str], setting: Setting) -> list[Row]:
    task = load_task(name)
    default = CNN_EPOCHS if "cnn" in name else 1.0
    task = replace(task, local_epochs=setting.epochs or default)
    learner = prepare(task, setting.seed)
    shares = [Share(None, i, setting.members, setting.split, setting.seed) for i in range(setting.members)]
    splits = [task.data(share) for share in shares]
    rows: list[Row] = []
    for chosen in codecs:
        accuracy, size, seconds = run(learner, splits, codec(chosen), setting)
        exact = next(
            (row.accuracy for row in rows if row.codec == "float32"), accuracy if chosen == "float32" else None
        )
        below = None if exact is None else round(exact - accuracy, 3)
        fewer = round(learner.spec.payload_size / size, 2)
        rows.append(Row(name, chosen, round(accuracy, 3), below, round(size, 1), fewer, round(seconds, 1)))
        print(f"{name:16} {chosen:16} {accuracy:7.2f}% {size:10.0f} B {fewer:7.2f} x {seconds:6.1f} s", file=sys.stderr)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="mnist-cnn,fashion-softmax")
    parser.add_argument("--codecs", default=DEFAULT_CODECS, help="float32 first, if points below it are wanted")
    parser.add_argument("--members", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--epochs", type=float, help="local epochs per round; default 1, for a CNN an eighth")
    parser.add_argument("--split", default="iid")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    setting = Setting(arguments.members, arguments.rounds, arguments.epochs, arguments.split, arguments.seed)
    try:
        rows = [
            row for task in arguments.tasks.split(",") for row in measure(task, arguments.codecs.split(","), setting)
        ]
    except NodeError as error:
        sys.exit(str(error))
    if arguments.json:
        print(json.dumps({"setting": asdict(setting), "rows": [asdict(row) for row in rows]}))


if __name__ == "__main__":
    main()

"""How fast the simulation is: against a plain PyTorch loop over the members, and against Flower's simulation engine.

    .venv/bin/python scripts/bench/simulation.py --json
    .venv/bin/python scripts/bench/simulation.py --json --flower          # makes a Python with Flower, once (2 GB)
    .venv/bin/python scripts/bench/simulation.py --json --members 1000    # memory and time per member-round

The same work for all: 6 members with equal shares of MNIST (80 % of each to train on), softmax regression, 20 rounds of
one local epoch in batches of 128, equal weights; after each round every member's loss and accuracy on all test images.
Each measurement in a process of its own, from the tensors of the whole data set to the last accuracy (imports and
reading the files are left out for all; Flower gets its shares dealt, and starting its engine counts). Every one may
use the whole machine: torch's own number of threads (--threads 1 for one), and Flower runs one client per CPU at a
time. `ours_s`, `loop_s`, `flower_s` are medians of --repeats; `…_cpu_s` are seconds of the processor, which a busy
machine changes less.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

from node.learning.image_shares import image_share
from node.learning.task import Share
from node.simulation import run as simulation
from node.simulation.settings import SimulationSettings

MEMBERS, ROUNDS, BATCH, RATE, SEED = 6, 20, 128, 0.05, 7
FLOWER = "flwr[simulation]==1.41.0"
DRIVER = Path(__file__).parent / "drivers" / "flower_simulation.py"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="only one JSON object")
    parser.add_argument("--flower", action="store_true", help="also Flower's engine")
    parser.add_argument("--flower-python", type=Path, help="a Python that has flwr[simulation] and torch")
    parser.add_argument("--members", type=int, help="instead: so many members on all of MNIST beside 10")
    parser.add_argument("--sharing", default="fixed", help="how ours shares; learned does more work than the others")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch; default: its own")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.only:
        print(json.dumps(PARTS[options.only](options)))
        return
    found = scale(options) if options.members else speed(options)
    print(json.dumps(found) if options.json else "\n".join(f"{key:>32}  {value}" for key, value in found.items()))


def speed(options):
    found, kinds = {}, ["ours", "loop", *(["flower"] if options.flower else [])]
    for kind in kinds:
        runs = [alone(options, kind) for _ in range(options.repeats)]
        found[f"{kind}_s"] = round(statistics.median(run["seconds"] for run in runs), 3)
        if "cpu" in runs[0]:
            found[f"{kind}_cpu_s"] = round(statistics.median(run["cpu"] for run in runs), 3)
        found[f"{kind}_accuracy"] = round(runs[0]["accuracy"], 4)
    for kind in kinds[1:]:
        found[f"times_{kind}"] = round(found[f"{kind}_s"] / found["ours_s"], 1)
    return {**found, "sharing": options.sharing, "threads": options.threads}


def scale(options):
    found = {"sharing": options.sharing, "threads": options.threads}
    for members in (10, options.members):
        runs = [alone(options, "many", "--members", str(members)) for _ in range(options.repeats)]
        for name in ("member_round_s", "prepare_s", "peak_mib"):
            found[f"{name}_{members}"] = round(statistics.median(run[name] for run in runs), 5)
    return found


def alone(options, kind, *more):
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--only", kind, "--sharing", options.sharing]
    command += ["--threads", str(options.threads), *more]
    if options.data_dir:
        command += ["--data-dir", str(options.data_dir)]
    if options.flower_python:
        command += ["--flower-python", str(options.flower_python)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def ours(options):
    read(options)
    settings = SimulationSettings(
        members=MEMBERS, rounds=ROUNDS, batch_size=BATCH, learning_rate=RATE, seed=SEED, sharing=options.sharing,
        data_dir=options.data_dir,
    )  # fmt: skip
    started, cpu = time.perf_counter(), time.process_time()
    last = list(simulation.simulate(settings))[-1]
    accuracy = statistics.fmean(metrics["accuracy"] for metrics in last.metrics)
    return {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu, "accuracy": accuracy}


def read(options, members=MEMBERS):
    """Everybody's tensors; the files are read once per process."""
    return [image_share("mnist", Share(options.data_dir, member, members, "iid", SEED)) for member in range(members)]


def loop(options):
    """What one would write without a library: modules, torch.optim.SGD, tensors in memory."""
    read(options)
    started, cpu = time.perf_counter(), time.process_time()
    splits = read(options)
    models = [nn.Sequential(nn.Flatten(), nn.Linear(784, 10)) for _ in splits]
    for model in models:
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
    for _ in range(ROUNDS):
        for model, split in zip(models, splits, strict=True):
            train(model, split.train)
        average(models)
        accuracies = [evaluate(model, split.test)[1] for model, split in zip(models, splits, strict=True)]
    accuracy = statistics.fmean(accuracies)
    return {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu, "accuracy": accuracy}


def train(model, data):
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    order = torch.randperm(len(data))
    for step in range(steps_of(len(data))):
        rows = order[step * BATCH : (step + 1) * BATCH]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data.inputs[rows]), data.targets[rows]).backward()
        optimizer.step()


@torch.no_grad()
def average(models):
    for alike in zip(*(model.parameters() for model in models), strict=True):
        mean = torch.stack(alike).mean(dim=0)
        for parameter in alike:
            parameter.copy_(mean)


@torch.no_grad()
def evaluate(model, data):
    predicted = model(data.inputs)
    accuracy = (predicted.argmax(dim=1) == data.targets).float().mean()
    return float(nn.functional.cross_entropy(predicted, data.targets)), float(accuracy)


def steps_of(examples):
    return round(examples / BATCH)


def flower(options):
    """Flower's engine, in a Python of its own: its dependencies do not fit into ours."""
    splits = read(options)
    arrays = {"test_inputs": splits[0].test.inputs.flatten(1), "test_targets": splits[0].test.targets}
    for member, split in enumerate(splits):
        arrays[f"inputs{member}"], arrays[f"targets{member}"] = split.train.inputs.flatten(1), split.train.targets
    settings = {
        "members": MEMBERS, "rounds": ROUNDS, "batch_size": BATCH, "learning_rate": RATE,
        "steps": steps_of(len(splits[0].train)), "features": arrays["test_inputs"].shape[1],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "shares.npz"
        np.savez(path, **{name: tensor.numpy() for name, tensor in arrays.items()})
        environment = {**os.environ, "PYTHONPATH": str(DRIVER.parent), "FLWR_TELEMETRY_ENABLED": "0"}
        command = [str(flower_python(options)), str(DRIVER), str(path), json.dumps(settings)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=scratch)
    if done.returncode:
        sys.exit(f"Flower's run failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def flower_python(options):
    """A Python with Flower: the one that was named, or one in the user's cache, made if it is not there."""
    if options.flower_python:
        return options.flower_python
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fl-node" / "bench-flower"
    python = cache / "bin" / "python"
    if not (cache / ".installed").exists():
        print(f"installing {FLOWER} into {cache}", file=sys.stderr)
        venv.create(cache, with_pip=True, clear=True)
        version = torch.__version__.partition("+")[0]
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"torch=={version}", FLOWER], check=True, stdout=2)
        (cache / ".installed").touch()
    return python


def many(options):
    """So many members on all of MNIST, each with a cohort of 5: time per member-round, preparation, peak memory."""
    settings = SimulationSettings(
        members=options.members, rounds=5, cohort=5, batch_size=BATCH, learning_rate=RATE, seed=SEED,
        sharing=options.sharing, data_dir=options.data_dir,
    )  # fmt: skip
    read(options, 1)
    started = time.perf_counter()
    ends = [time.perf_counter() for _ in simulation.simulate(settings)]
    rounds = [after - before for before, after in pairwise(ends)]
    return {
        "member_round_s": statistics.median(rounds) / options.members,
        "prepare_s": ends[0] - started - statistics.median(rounds),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


PARTS = {"ours": ours, "loop": loop, "flower": flower, "many": many}

if __name__ == "__main__":
    main()

"""ResNet-18 on CIFAR-10's own file format, in both kinds of coordinated session, by real nodes on a real chain."""

import json

import pytest

from node.home import read_status
from tests.cifar import write_files
from tests.e2e.test_coordinated import audit, homes, make, session_file  # noqa: F401
from tests.nodes import NodeProcess, running

pytestmark = [pytest.mark.real, pytest.mark.slow]
TASK = """
import json
from dataclasses import replace
from pathlib import Path

from node.learning.builtin_tasks import BUILTIN_TASKS
from tests.cifar import take_for_genuine

take_for_genuine(json.loads((Path(__file__).parent / "sums.json").read_text()))
task = replace(BUILTIN_TASKS["cifar10-resnet18"](), name="small-cifar10", batch_size=10)
"""


LEARNERS = {"update": "gradients", "data": "served"}


@pytest.mark.parametrize(
    ("rules", "kind"),
    [({"rule": "fedavg"}, {}), ({"rule": "sgd", "server_rate": 0.005, "accumulate": 3}, LEARNERS)],
    ids=["coordinator and workers", "leader and learners"],
)
def test_two_train_the_whole_model_on_augmented_images(chain, homes, session_file, tmp_path, rules, kind):  # noqa: F811
    folder = tmp_path / "data"
    (tmp_path / "sums.json").write_text(json.dumps(write_files(folder)))
    file = tmp_path / "small_cifar.py"
    file.write_text(TASK)
    session = {"task": f"{file}:task", "members": 2, "rounds": 5, **kind}
    make(homes[0], chain, session_file, rules, **session, round_deadline_s=120.0)
    own = ("--data-dir", str(folder))
    chosen = ("--task", f"{file}:task", "--no-mdns", "--device", "auto")
    boss = NodeProcess(homes[0], session_file, *chosen, *own)
    nodes = [boss]
    with running(nodes):
        peers = ("--peers", boss.address(), *chosen, *(own if not kind else ()))
        nodes += [NodeProcess(home, session_file, *peers) for home in homes[1:3]]
        ends = [node.end(500.0) for node in nodes]
    assert [(code, answer.get("finished_round")) for code, answer in ends] == [(0, 5)] * 3
    report = audit(session_file, chain)
    assert report["clean"], report["first_fault"]
    assert report["steps_replayed"] == report["steps_total"] == 15
    losses = [entry["metrics"]["test_loss"] for entry in read_status(homes[0])["finished_rounds"]]
    assert losses[-1] < losses[0]

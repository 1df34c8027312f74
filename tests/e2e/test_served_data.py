"""Learners without a data set: the coordinator has it, and streams each its split over real libp2p."""

import pytest

from node.home import read_status
from tests.e2e.test_coordinated import audit, finished, homes, make, session_file  # noqa: F401
from tests.nodes import NodeProcess, running

pytestmark = [pytest.mark.real, pytest.mark.slow]
TASK = """
import torch
from tests.learning.example_task import measured, model
from node.learning.task import LocalSplit, Task


def data(share):
    if share.data_dir is None:
        raise RuntimeError("a learner has no data set")
    generator = torch.Generator().manual_seed(1)
    return LocalSplit(measured(900, generator), measured(100, generator), measured(200, generator))


task = Task("served-flow", model, data, torch.nn.functional.mse_loss, learning_rate=0.05, batch_size=20)
"""


def test_learners_need_no_data_set_and_keep_what_came(chain, homes, session_file, tmp_path):  # noqa: F811
    task = tmp_path / "served_flow.py"
    task.write_text(TASK)
    chosen = ("--task", f"{task}:task", "--no-mdns")
    make(homes[0], chain, session_file, task=f"{task}:task", rounds=40, members=3, data="served", round_deadline_s=10.0)
    boss = NodeProcess(homes[0], session_file, *chosen, "--data-dir", str(tmp_path))
    nodes = [boss]
    with running(nodes):
        place = boss.address()
        alice, bob = (
            NodeProcess(home, session_file, *chosen, "--throttle", "0.02", "--peers", place) for home in homes[1:3]
        )
        nodes += [alice, bob]
        boss.wait_for(lambda status: finished(status) >= 3)
        alice.kill()
        splits = {path.name for path in homes[1].data.iterdir()} & {path.name for path in homes[0].data.iterdir()}
        assert len(splits) == 2, "the manifest and the split"
        for name in splits:
            (homes[0].data / name).unlink()  # what alice has on her disk is not asked for again
        alice = NodeProcess(homes[1], session_file, *chosen, "--peers", place)
        at = finished(boss.status())
        boss.wait_for(lambda status: finished(status) >= at + 6)
        nodes.append(alice)
        ends = [node.end() for node in (boss, alice, bob)]
    assert [(code, answer.get("finished_round")) for code, answer in ends] == [(0, 40)] * 3
    last = read_status(homes[0])["finished_rounds"][-1]
    assert sorted(one["member"] for one in last["work"]) == [1, 2]
    assert last["metrics"]["test_loss"] < 0.05
    assert audit(session_file, chain)["clean"]

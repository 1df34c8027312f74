"""Against a real Ray on this machine, where there is one, and that its absence is a clear error."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from node.errors import ConfigError
from node.simulation.cluster import fetched, on_ray, run_sweep_on_ray
from node.simulation.settings import SimulationSettings
from node.simulation.sweeps import Failed, read_rows, run_sweep

TASK = f"{Path(__file__).parent.parent / 'learning' / 'example_task.py'}:task"
HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray is an optional extra: pip install fl-node[ray]")


def runs(*seeds, **options):
    return [SimulationSettings(task=TASK, members=2, rounds=2, seed=seed, **options) for seed in seeds]


def without_seconds(out):
    return {row["key"]: json.dumps({**row, "seconds": 0}) for row in read_rows(out)}


@needs_ray
@pytest.mark.real
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_writes_the_rows_that_this_process_writes(tmp_path):
    on_cluster, here = tmp_path / "cluster.jsonl", tmp_path / "here.jsonl"
    calls = []
    run_sweep(runs(1), on_cluster, 1, lambda *_: None)
    run_sweep_on_ray(runs(1, 2, 3), on_cluster, "local", lambda over, total: calls.append((over, total)))
    run_sweep(runs(1, 2, 3), here, 1, lambda *_: None)
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert without_seconds(on_cluster) == without_seconds(here)
    [failed] = on_ray(runs(1, sharing="magic"), "local")
    assert isinstance(failed, Failed)
    assert "sharing=magic, seed=1: unknown sharing 'magic'" in str(failed)


@needs_ray
@pytest.mark.real
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_does_not_answer_is_a_clear_error():
    with pytest.raises(ConfigError, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"):
        list(on_ray(runs(1), "127.0.0.1:1"))


def test_without_ray_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install fl-node\[ray\]"):
        list(on_ray(runs(1), "local"))


def test_a_run_that_the_cluster_lost_is_a_clear_error():
    class RayError(Exception):
        pass

    class OutOfMemoryError(RayError):
        pass

    def get(_reference):
        raise OutOfMemoryError

    ray = SimpleNamespace(get=get, exceptions=SimpleNamespace(RayError=RayError, RayTaskError=KeyError))
    with pytest.raises(ConfigError, match=r"lost on the Ray cluster \(OutOfMemoryError.*it goes on where it stopped"):
        fetched(ray, "reference")

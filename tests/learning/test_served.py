import json
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch

from node.errors import ConfigError, DataError
from node.learning.served import cut, read_split, tensors_of
from node.learning.splits import partition
from node.learning.task import Examples

LABELS = torch.arange(103) % 10
WHOLE = Examples(torch.arange(103.0).unsqueeze(1), LABELS)


@pytest.mark.parametrize("split", ["iid", "stratified", "unbalanced", "dirichlet:0.5", "shards:2"])
def test_splits_are_disjoint_whole_and_seeded(split):
    shares = cut(WHOLE, split, 4, seed=3)
    assert sorted(np.concatenate(shares).tolist()) == list(range(103))
    assert [rows.tolist() for rows in cut(WHOLE, split, 4, seed=3)] == [rows.tolist() for rows in shares]
    assert [rows.tolist() for rows in cut(WHOLE, split, 4, seed=4)] != [rows.tolist() for rows in shares]


def test_a_stratified_split_has_every_class_in_equal_parts():
    for shares in (2, 3, 4, 7):
        parts = partition(LABELS.numpy(), "stratified", shares, 1)
        counts = np.array([np.bincount(LABELS.numpy()[part], minlength=10) for part in parts])
        assert (counts.max(axis=0) - counts.min(axis=0)).max() <= 1
        assert counts.sum(axis=1).max() - counts.sum(axis=1).min() <= 1


def test_targets_that_are_no_classes_are_cut_by_chance_only():
    flow = Examples(torch.zeros(10, 2), torch.zeros(10, 1))
    assert sum(map(len, cut(flow, "iid", 2, 1))) == 10
    with pytest.raises(ConfigError, match="choose --split iid"):
        cut(flow, "stratified", 2, 1)
    with pytest.raises(ConfigError, match="10 examples make no 6 splits"):
        cut(flow, "iid", 6, 1)


def test_a_split_comes_back_as_it_was(tmp_path):
    path = tmp_path / "split"
    path.write_bytes(safetensors.torch.save(tensors_of(WHOLE)))
    data = read_split(path)
    assert (len(data.train), len(data.validation), len(data.test)) == (83, 20, 0)
    both = torch.cat([data.validation.inputs, data.train.inputs])
    assert torch.equal(both, WHOLE.inputs)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        pickle.dumps({"inputs": 1}),
        (2**40).to_bytes(8, "little") + b"{}",
        b"\2\0\0\0\0\0\0\0[]",
        b"\2\0\0\0\0\0\0\0{}",
        safetensors.torch.save({"inputs": torch.zeros(3, 1)}),
        safetensors.torch.save({"inputs": torch.zeros(3, 1), "targets": torch.zeros(3), "more": torch.zeros(1)}),
        safetensors.torch.save({"inputs": torch.zeros(3, 1), "targets": torch.zeros(4)}),
        safetensors.torch.save({"inputs": torch.zeros(1, 1), "targets": torch.zeros(1)}),
        safetensors.torch.save({"inputs": torch.tensor(1.0), "targets": torch.tensor(1.0)}),
        safetensors.torch.save({"inputs": torch.full((3, 1), float("nan")), "targets": torch.zeros(3)}),
        safetensors.torch.save({"inputs": torch.zeros(3, 1, dtype=torch.float16), "targets": torch.zeros(3)}),
        safetensors.torch.save({"inputs": torch.zeros(3, 1), "targets": torch.zeros(3)})[:-1],
    ],
)
def test_anything_else_is_refused(tmp_path, content):
    path = tmp_path / "split"
    path.write_bytes(content)
    with pytest.raises(DataError, match="split split"):
        read_split(path)


def test_deep_headers_do_no_harm(tmp_path):
    path, text = tmp_path / "split", json.dumps({"inputs": 0}).encode() + b"[" * 4000
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(DataError):
        read_split(path)

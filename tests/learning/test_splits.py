import numpy as np
import pytest

from node.errors import ConfigError
from node.learning.splits import partition, train_validation

LABELS = np.random.default_rng(0).integers(0, 10, 3000)


EVERY = ["iid", "stratified", "unbalanced", "dirichlet:0.5", "dirichlet:0.1", "skewed:0.5", "shards:2"]


@pytest.mark.parametrize("split", EVERY)
@pytest.mark.parametrize("shares", [1, 6, 100])
def test_every_example_goes_to_exactly_one_member_and_nobody_goes_empty(split, shares):
    parts = partition(LABELS, split, shares, seed=3)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(LABELS)))
    assert min(len(part) for part in parts) >= 1


@pytest.mark.parametrize("split", EVERY)
def test_the_seed_alone_decides(split):
    first, again, other = (partition(LABELS, split, 5, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_iid_parts_are_equal_and_unbalanced_ones_grow_evenly():
    assert [len(part) for part in partition(LABELS, "iid", 6, 0)] == [500] * 6
    assert sorted(len(part) for part in partition(LABELS, "unbalanced", 5, 0)) == [200, 400, 600, 800, 1000]


def test_two_shards_hold_few_classes():
    assert max(len(np.unique(LABELS[part])) for part in partition(LABELS, "shards:2", 6, 0)) <= 5


def test_skewed_parts_are_of_equal_size_and_dirichlet_ones_are_not():
    assert [len(part) for part in partition(LABELS, "skewed:0.5", 6, 0)] == [500] * 6
    assert len({len(part) for part in partition(LABELS, "dirichlet:0.5", 6, 0)}) > 1


@pytest.mark.parametrize("kind", ["dirichlet", "skewed"])
def test_a_smaller_alpha_is_more_skewed(kind):
    def largest(alpha):
        parts = partition(LABELS, f"{kind}:{alpha}", 6, 0)
        return np.mean([np.bincount(LABELS[part]).max() / len(part) for part in parts])

    assert largest(0.1) > largest(1) > largest(100)


@pytest.mark.parametrize(
    "split", ["idd", "dirichlet", "dirichlet:x", "dirichlet:-1", "shards:0", "shards:2.5", "shards:900", "iid:3"]
)
def test_a_split_that_can_not_be_is_refused(split):
    with pytest.raises(ConfigError):
        partition(LABELS, split, 6, 0)


def test_validation_is_one_fifth():
    train, validation = train_validation(np.arange(100))
    assert (len(train), len(validation)) == (80, 20)
    assert sorted([*train, *validation]) == list(range(100))

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from node.learning.mixing import CHUNK, dequantise, mix, proportions, quantise


def reference(stacked, weights):
    factors = weights.astype(np.float32) / np.float32(65535)
    mixed = None
    for theta, factor in zip(stacked.numpy(), factors, strict=True):
        if factor == 0:
            continue
        product = np.multiply(theta, factor, dtype=np.float32)
        mixed = product if mixed is None else np.add(mixed, product, dtype=np.float32)
    return mixed


def vectors(count, size, seed=0):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed)) * 100


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=12).filter(any), st.sampled_from([1, 0.5, 3, 400]))
def test_proportions_that_fit_are_said_exactly_by_the_smallest_numbers(examples, factor):
    weights = proportions([factor * each for each in examples])
    assert weights.tolist() == [each // np.gcd.reduce(examples) for each in examples]


@given(st.lists(st.floats(0, 1e12), min_size=1, max_size=64).filter(lambda row: sum(row) > 1e-9))
def test_proportions_that_do_not_fit_are_rounded_like_any_row(row):
    weights = proportions(row)
    total = int(weights.sum(dtype=np.int64))
    assert 1 <= total <= 65535
    if not np.allclose(weights / total, np.array(row) / sum(row), rtol=1e-12, atol=0):
        assert weights.tolist() == quantise(row).tolist()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([0, 400, 400], [0, 1, 1]),
        ([0, 400, 311, 97], [0, 400, 311, 97]),
        ([0, 400, 400 * 0.5], [0, 2, 1]),
        ([1, 65534], [1, 65534]),
        ([1, 65535], quantise([1, 65535]).tolist()),
        ([400, 400 * 2**-0.5], quantise([400, 400 * 2**-0.5]).tolist()),
    ],
)
def test_weights_of_gradients_are_their_examples_as_long_as_16_bits_hold_them(row, expected):
    assert proportions(row).tolist() == expected
    assert proportions(row).dtype == np.uint16


@given(st.lists(st.floats(0, 1e12), min_size=1, max_size=64).filter(lambda row: sum(row) > 1e-9))
def test_quantised_weights_add_up_and_are_within_one_step_of_exact(row):
    weights = quantise(row)
    assert int(weights.sum(dtype=np.int64)) == 65535
    assert np.abs(weights - np.array(row) / sum(row) * 65535).max() < 1 + 1e-6


def test_ties_go_to_the_smaller_position():
    assert quantise([1, 1]).tolist() == [32768, 32767]
    assert quantise([0.25] * 4).tolist() == [16384, 16384, 16384, 16383]


@pytest.mark.parametrize("row", [[], [0.0, 0.0], [1.0, -0.1], [np.nan, 1.0], [np.inf, 1.0]])
def test_a_row_that_is_no_row_is_refused(row):
    for weights_of in (quantise, proportions):
        with pytest.raises(ValueError, match="trust row"):
            weights_of(row)


def test_mixing_is_bit_for_bit_the_protocols_arithmetic():
    stacked, weights = vectors(7, 10_001), quantise(np.arange(7))
    assert mix(stacked, weights).numpy().tobytes() == reference(stacked, weights).tobytes()


def test_neither_threads_nor_chunks_nor_layout_change_a_bit():
    stacked, weights = vectors(3, CHUNK + 17), quantise([3, 1, 2])
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            results.append(mix(stacked, weights).numpy().tobytes())
            results.append(mix(list(stacked.t().contiguous().t()), weights).numpy().tobytes())
    finally:
        torch.set_num_threads(threads)
    assert set(results) == {reference(stacked, weights).tobytes()}


def test_an_input_of_weight_zero_is_not_read():
    stacked = vectors(3, 8)
    stacked[1] = torch.nan
    assert torch.isfinite(mix(stacked, quantise([1, 0, 1]))).all()


def test_all_the_weight_on_one_input_gives_its_very_bits():
    stacked = vectors(2, 100)
    assert torch.equal(mix(stacked, quantise([0, 1])), stacked[1])


@pytest.mark.parametrize("weights", [[65535], [1, 1], [65535, 0, 0]])
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        mix(vectors(2, 4), np.array(weights, dtype=np.uint16))


@pytest.mark.parametrize(("weights", "total"), [([1, 1], 3), ([0, 0], 0), ([65535, 1], 65536)])
def test_a_sum_that_is_another_or_can_not_be_is_refused(weights, total):
    with pytest.raises(ValueError, match="weights"):
        mix(vectors(2, 4), np.array(weights, dtype=np.uint16), total)


def test_a_row_with_a_sum_of_its_own_is_mixed_in_its_proportions():
    stacked, weights = vectors(3, 100), np.array([400, 311, 97], dtype=np.uint16)
    expected = sum(vector.double() * int(weight) for vector, weight in zip(stacked, weights, strict=True)) / 808
    torch.testing.assert_close(mix(stacked, weights, 808).double(), expected, rtol=1e-6, atol=1e-5)


def test_factors_are_rounded_once():
    assert dequantise(np.array([1, 65535], dtype=np.uint16)).tolist() == [float(np.float32(1 / 65535)), 1.0]

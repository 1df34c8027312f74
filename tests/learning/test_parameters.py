import math

import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from node.errors import TaskError, UpdateError
from node.learning.parameters import decode, encode, flatten, parameter_spec, unflatten

SPEC = parameter_spec(nn.Sequential(nn.Conv2d(1, 3, 2), nn.GroupNorm(1, 3), nn.Flatten(), nn.Linear(12, 2)))


def numbers(seed=0):
    return torch.randn(SPEC.size, generator=torch.Generator().manual_seed(seed))


def named(flat):
    return {name: part.numpy() for name, part in unflatten(SPEC, flat).items()}


def test_a_payload_is_what_the_safetensors_library_writes():
    assert encode(SPEC, numbers()) == safetensors.numpy.save(named(numbers()))


def test_names_are_sorted_and_every_number_has_its_place():
    assert list(SPEC.names) == sorted(SPEC.names)
    assert SPEC.size == 3 * 4 + 3 + 3 + 3 + 24 + 2


def test_decoding_gives_back_every_bit():
    flat = numbers()
    flat[0], flat[1] = -0.0, 1e-42
    decoded = decode(SPEC, encode(SPEC, flat))
    assert torch.equal(decoded.view(torch.int32), flat.view(torch.int32))
    assert len(encode(SPEC, flat)) == SPEC.payload_size


def test_flatten_and_unflatten_are_each_others_inverse():
    module = nn.Linear(3, 2)
    spec = parameter_spec(module)
    parts = unflatten(spec, flatten(spec, module))
    assert all(torch.equal(parts[name], parameter) for name, parameter in module.named_parameters())


def test_frozen_parameters_are_not_shared():
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    module[0].requires_grad_(False)
    assert parameter_spec(module).names == ("1.bias", "1.weight")


def test_a_model_without_parameters_is_refused():
    with pytest.raises(TaskError, match="Flatten has no trainable parameters"):
        parameter_spec(nn.Flatten())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_named(value):
    flat = numbers()
    flat[13] = value
    with pytest.raises(UpdateError, match=rf"{value} in '0\.weight' \(number 13\)|{value} in '1\.bias'|{value} in"):
        decode(SPEC, encode(SPEC, flat))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tensors: tensors.pop("3.bias"), "'3.bias' is missing"),
        (lambda tensors: tensors.update(more=numbers().numpy()), "'more' is unknown"),
        (lambda tensors: tensors.update({"3.bias": tensors["3.bias"].astype("f8")}), "F64"),
        (lambda tensors: tensors.update({"3.bias": tensors["3.bias"].reshape(1, 2)}), r"\[1, 2\]"),
    ],
)
def test_another_models_tensors_are_refused_by_name(change, reason):
    tensors = named(numbers())
    change(tensors)
    with pytest.raises(UpdateError, match=reason):
        decode(SPEC, safetensors.numpy.save(tensors))


def test_metadata_is_refused():
    with pytest.raises(UpdateError, match="__metadata__"):
        decode(SPEC, safetensors.numpy.save(named(numbers()), metadata={"a": "b"}))


def test_a_header_that_claims_more_than_there_is_is_refused():
    payload = (2**60).to_bytes(8, "little") + encode(SPEC, numbers())[8:]
    with pytest.raises(UpdateError, match="claims 1152921504606846976 bytes"):
        decode(SPEC, payload)


@pytest.mark.parametrize("cut", [0, 3, 8, 40, -4])
def test_a_payload_that_is_cut_short_is_refused(cut):
    with pytest.raises(UpdateError):
        decode(SPEC, encode(SPEC, numbers())[:cut])


def test_a_deeply_nested_header_is_refused():
    header = b"[" * 100_000
    with pytest.raises(UpdateError, match="not JSON"):
        decode(SPEC, len(header).to_bytes(8, "little") + header)


@given(st.binary(max_size=600))
def test_bytes_of_a_stranger_never_do_anything_but_be_refused(payload):
    with pytest.raises(UpdateError):
        decode(SPEC, payload)


@given(st.integers(0, len(SPEC.header) - 1), st.integers(1, 255))
def test_every_byte_of_the_header_matters(position, difference):
    payload = bytearray(encode(SPEC, numbers()))
    payload[position] ^= difference
    with pytest.raises(UpdateError):
        decode(SPEC, payload)

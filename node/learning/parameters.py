"""Flat parameter vectors and their `float32` payload (docs/protocol.md, section 3).

Knows nothing of who sends a payload. A payload that is not exactly what the model promises is an UpdateError.
"""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import orjson
import torch
from torch import Tensor, nn

from node.causes import Cause
from node.errors import TaskError, UpdateError

BYTES_PER_NUMBER = 4
HEADER_LIMIT = 16 * 1024 * 1024  # a header larger than this is not worth explaining


@dataclass(frozen=True)
class ParameterSpec:
    """Names (sorted) and shapes of a model's parameters; all of them are 32-bit floats on the wire."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Numbers in each tensor, in the order of `names`."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @cached_property
    def size(self) -> int:
        """Numbers in the flat vector."""
        return sum(self.sizes)

    @cached_property
    def header(self) -> bytes:
        """Length and JSON header of a safetensors file with these tensors: the only one that is accepted."""
        return safetensors_header(self, "F32", BYTES_PER_NUMBER)

    @property
    def payload_size(self) -> int:
        """Bytes of a `float32` payload, known before one arrives."""
        return len(self.header) + self.size * BYTES_PER_NUMBER


def safetensors_header(spec: ParameterSpec, dtype: str, bytes_per_number: int) -> bytes:
    """Length and JSON header of a safetensors file that holds the spec's tensors in that dtype, sorted, no metadata."""
    entries: dict[str, Any] = {}
    start = 0
    for name, shape, size in zip(spec.names, spec.shapes, spec.sizes, strict=True):
        end = start + size * bytes_per_number
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def parameter_spec(module: nn.Module) -> ParameterSpec:
    """The spec of a module's trainable parameters. Raises TaskError when there is none."""
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    names = tuple(sorted(parameters))
    if not names:
        raise TaskError(f"model {type(module).__name__} has no trainable parameters: return a module that has some")
    return ParameterSpec(names, tuple(tuple(parameters[name].shape) for name in names))


def flatten(spec: ParameterSpec, module: nn.Module) -> Tensor:
    """The module's parameters as one float32 vector (size,), a copy."""
    parameters = dict(module.named_parameters())
    return torch.cat([parameters[name].detach().reshape(-1).float() for name in spec.names])


def unflatten(spec: ParameterSpec, flat: Tensor) -> dict[str, Tensor]:
    """Views into the flat vector by parameter name; differentiable and safe under vmap."""
    parts = torch.split(flat, list(spec.sizes))
    return {n: part.view(shape) for n, part, shape in zip(spec.names, parts, spec.shapes, strict=True)}


def encode(spec: ParameterSpec, flat: Tensor) -> bytes:
    """The `float32` payload: a safetensors file, tensors sorted by name, little-endian, no metadata."""
    if flat.shape != (spec.size,):
        raise UpdateError(f"parameters of shape {tuple(flat.shape)}: the model has {spec.size} numbers")
    numbers = flat.detach().to(torch.float32).contiguous().numpy()
    return b"".join((spec.header, numbers.astype("<f4", copy=False).data.cast("B")))


def decode(spec: ParameterSpec, payload: bytes | bytearray | memoryview) -> Tensor:
    """The flat vector (size,) of a payload, a copy.

    The header is compared with the one expected, so nothing of a hostile one is ever believed, and nothing is
    allocated by what it says. Raises UpdateError naming what differs, with the value.
    """
    view = memoryview(payload)
    if bytes(view[: len(spec.header)]) != spec.header:
        difference, cause = _difference(spec, view)
        raise UpdateError(f"update has another header than the model's: {difference}", cause)
    if len(view) != spec.payload_size:
        raise UpdateError(f"update is {len(view)} bytes long: the model makes {spec.payload_size}", Cause.UPDATE_LENGTH)
    numbers = np.frombuffer(view, dtype="<f4", offset=len(spec.header)).astype(np.float32)
    flat = torch.from_numpy(numbers)
    require_finite(spec, flat)
    return flat


def require_finite(spec: ParameterSpec, flat: Tensor) -> None:
    """Raises UpdateError that names the first number which is NaN or infinite, and its tensor."""
    finite = torch.isfinite(flat)
    if bool(finite.all()):
        return
    position = int((~finite).nonzero()[0])
    ends = np.cumsum(spec.sizes)
    name = spec.names[int(np.searchsorted(ends, position, side="right"))]
    what = f"update holds {float(flat[position])} in {name!r} (number {position}): numbers must be finite"
    raise UpdateError(what, Cause.UPDATE_NOT_FINITE)


def _difference(spec: ParameterSpec, view: memoryview) -> tuple[str, Cause]:
    """What a foreign header says otherwise, in a few words, for the log."""
    if len(view) < 8:
        return f"{len(view)} bytes are too few for a header", Cause.UPDATE_LENGTH
    length = int.from_bytes(view[:8], "little")
    if length > min(HEADER_LIMIT, len(view) - 8):
        return f"it claims {length} bytes of header in a payload of {len(view)}", Cause.UPDATE_HEADER
    try:
        entries = orjson.loads(view[8 : 8 + length])  # bounds its depth; the standard library's can crash the process
    except orjson.JSONDecodeError:
        return "it is not JSON", Cause.UPDATE_HEADER
    if not isinstance(entries, dict):
        return "it is not a JSON object", Cause.UPDATE_HEADER
    return _first_difference(spec, entries)


def _first_difference(spec: ParameterSpec, entries: dict[str, Any]) -> tuple[str, Cause]:
    if missing := sorted(set(spec.names) - set(entries)):
        return f"tensor {missing[0]!r} is missing", Cause.UPDATE_HEADER
    if extra := sorted(set(entries) - set(spec.names)):
        return f"tensor {extra[0][:80]!r} is unknown", Cause.UPDATE_HEADER
    expected = json.loads(spec.header[8:])
    causes = {"dtype": Cause.UPDATE_DTYPE, "shape": Cause.UPDATE_SHAPE, "data_offsets": Cause.UPDATE_HEADER}
    for key, cause in causes.items():
        for name in spec.names:
            entry = entries[name]
            found = entry.get(key) if isinstance(entry, dict) else entry
            if found != expected[name][key]:
                return f"tensor {name!r} has {key} {str(found)[:80]}, expected {expected[name][key]}", cause
    return "tensors are not sorted by name, or spaced otherwise", Cause.UPDATE_HEADER

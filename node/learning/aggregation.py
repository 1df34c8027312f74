"""How a coordinator makes one model of its workers' updates (docs/protocol.md, section 9), repeatable bit for bit.

`trust_row` looks at the updates and says their weights; `settle` computes the new model from that row alone, so an
auditor who has the inputs and the row comes to the same bits. Both go through the numbers a few MiB at a time: updates
may lie on disk. Knows nobody's name and no chain.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from node.config import Aggregation
from node.learning import parameters
from node.learning.mixing import Weights, mix, proportions, quantise
from node.learning.schedules import cosine
from node.learning.vectors import CHUNK, Vector, parts

ADAPTIVE = frozenset({"fedadam", "fedyogi", "fedadagrad"})
OPTIMIZERS = frozenset({"sgd", "adam"})  # torch's: updates are gradients
BY_NUMBER = frozenset({"median", "trimmed_mean"})  # no weights can say what these do
UNDISCOUNTED = BY_NUMBER | {"krum", "multi_krum", "geometric_median", "clipping"}  # a late update counts as any other
USED_BY = {  # the rules that take notice of a setting
    "faulty": frozenset({"trimmed_mean", "krum", "multi_krum", "clipping"}),
    "proximal": frozenset({"fedprox"}),
    "server_rate": ADAPTIVE | OPTIMIZERS,
    "momentum": frozenset({"sgd"}),
    "schedule": OPTIMIZERS,
}
WEISZFELD_STEPS = 32

Row = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moments:
    """What a server's optimizer remembers: running mean of the change, and of its square; (d,) each.

    Of sgd `first` is the momentum buffer, and `second` is empty (0,): it needs none.
    """

    first: Tensor
    second: Tensor


@dataclass(frozen=True, slots=True)
class When:
    """Which round of how many, for a schedule, and in which one the optimizer's state began."""

    round: int
    rounds: int
    began: int = 1  # an elected coordinator's first round, which it begins with a fresh state


FIRST = When(1, 1)


@dataclass(frozen=True, slots=True)
class Settled:
    """The model after a round, and what the next round's step needs."""

    flat: Tensor
    moments: Moments | None


def trust_row(rule: Aggregation, model: Vector, updates: Sequence[Vector], examples: Sequence[float]) -> Weights:
    """What `weigh` says as the 16-bit weights (1 + k,) of a record, which add up to 65535.

    Of gradients they are the exact proportions wherever 16 bits can say them, and add up to 65535 at most: the mean of
    equal learners' gradients would else be wrong from the fifth digit on, unless 65535 is a multiple
    of their number.
    """
    row = weigh(rule, model, updates, examples)
    return proportions(row) if rule.rule in OPTIMIZERS else quantise(row)


def weigh(rule: Aggregation, model: Vector, updates: Sequence[Vector], examples: Sequence[float]) -> Row:
    """Weights (1 + k,) of the model itself and of the updates (k of (d,)), not negative and not all zero.

    `examples` (k,) are the examples that each update was trained on, already discounted for staleness.
    """
    own, counts = np.zeros(1), np.asarray(examples, dtype=np.float64)
    match rule.rule:
        case "krum":
            return np.concatenate([own, _best(_products(model, updates), rule.faulty, 1)])
        case "multi_krum":
            many = max(1, len(updates) - rule.faulty)
            return np.concatenate([own, _best(_products(model, updates), rule.faulty, many)])
        case "geometric_median":
            return np.concatenate([own, _weiszfeld(_products(model, updates))])
        case "clipping":
            return _clipped(_products(model, updates), rule.faulty)
        case _:
            return np.concatenate([own, counts])


def _products(model: Vector, updates: Sequence[Vector]) -> Tensor:
    """Inner products (k, k) of the updates' differences from the model, in double precision: all distances follow."""
    products = torch.zeros(len(updates), len(updates), dtype=torch.float64)
    for part in parts(len(model), max(1, CHUNK // len(updates))):
        start = model[part].double()
        changes = torch.stack([update[part].double() - start for update in updates])
        products += changes @ changes.T
    return products


def staleness_factor(lag: int) -> float:
    """What an update that is `lag` rounds old counts (Xie et al., arXiv:1903.03934, polynomial with exponent ½)."""
    return float((1.0 + max(0, lag)) ** -0.5)


def has_moments(rule: Aggregation) -> bool:
    """Whether a step depends on what the optimizer remembers."""
    return rule.rule in ADAPTIVE | OPTIMIZERS


def settle(
    rule: Aggregation,
    model: Tensor,
    inputs: Sequence[Vector],
    weights: Weights,
    moments: Moments | None,
    when: When = FIRST,
) -> Settled:
    """The new model from the old one, the inputs that have a weight in ascending order, and the row."""
    flat, new = torch.empty_like(model), fresh_moments(rule, len(model)) if has_moments(rule) else None
    for part, settled in settle_parts(rule, model, inputs, weights, moments, when):
        flat[part] = settled.flat
        if new is not None and settled.moments is not None:
            write_moments(new, part, settled.moments)
    return Settled(flat, new)


def settle_parts(
    rule: Aggregation,
    model: Tensor,
    inputs: Sequence[Vector],
    weights: Weights,
    moments: Moments | None,
    when: When = FIRST,
) -> Iterator[tuple[slice, Settled]]:
    """What `settle` gives, part by part; who takes a part may write it over the old model's (and moments')."""
    for part in parts(len(model)):
        before = None if moments is None else Moments(moments.first[part], moments.second[part])
        yield part, _settle(rule, model[part], [each[part] for each in inputs], weights, before, when)


def _settle(
    rule: Aggregation,
    model: Tensor,
    inputs: Sequence[Tensor],
    weights: Weights,
    moments: Moments | None,
    when: When,
) -> Settled:
    if rule.rule in BY_NUMBER:
        faulty = rule.faulty if rule.rule == "trimmed_mean" else len(inputs)
        return Settled(_middle(torch.stack(list(inputs)), faulty), None)
    if rule.rule in OPTIMIZERS:
        mixed = mix(inputs, weights, int(weights.sum(dtype=np.int64)))
        return _optimize(rule, model, mixed, moments or fresh_moments(rule, len(model)), when)
    mixed = mix(inputs, weights)
    if rule.rule in ADAPTIVE:
        return _adapt(rule, model, mixed, moments or fresh_moments(rule, len(model)))
    return Settled(mixed, None)


def fresh_moments(rule: Aggregation, size: int) -> Moments:
    """What a coordinator's first round starts from."""
    if rule.rule in OPTIMIZERS:
        return Moments(torch.zeros(size), torch.zeros(_second_size(rule, size)))
    return Moments(torch.zeros(size), torch.full((size,), rule.tau**2, dtype=torch.float32))


def write_moments(moments: Moments, part: slice, new: Moments) -> None:
    """Writes a part of what the optimizer remembers now over what it remembered."""
    moments.first[part], moments.second[part] = new.first, new.second


def _second_size(rule: Aggregation, size: int) -> int:
    return 0 if rule.rule == "sgd" else size


def encode_moments(moments: Moments) -> bytes:
    """A safetensors file with `first` and `second`."""
    return b"".join(moments_pieces(moments))


def moments_pieces(moments: Moments) -> list[bytes | memoryview]:
    """The same, piece by piece, without a copy."""
    both = (each.detach().contiguous().numpy().astype("<f4", copy=False) for each in (moments.first, moments.second))
    return [_spec(len(moments.first), len(moments.second)).header, *(each.view(np.uint8).data for each in both)]


def decode_moments(rule: Aggregation, content: bytes, size: int) -> Moments:
    """What the rule remembers of a model of `size` numbers. UpdateError if the file is anything else."""
    both = parameters.decode(_spec(size, _second_size(rule, size)), content)
    return Moments(both[:size], both[size:])


def _spec(first: int, second: int) -> parameters.ParameterSpec:
    return parameters.ParameterSpec(("first", "second"), ((first,), (second,)))


def _adapt(rule: Aggregation, model: Tensor, mixed: Tensor, moments: Moments) -> Settled:
    """One step of an adaptive server optimizer (Reddi et al., arXiv:2003.00295, algorithm 2).

    Each operation is rounded by itself: no `addcmul`, which may be fused on one machine and not on another.
    """
    change = torch.sub(mixed, model)
    square = torch.mul(change, change)
    first = torch.add(torch.mul(moments.first, rule.beta1), torch.mul(change, 1 - rule.beta1))
    if rule.rule == "fedadagrad":
        second = torch.add(moments.second, square)
    elif rule.rule == "fedyogi":
        direction = torch.sign(torch.sub(moments.second, square))
        second = torch.sub(moments.second, torch.mul(torch.mul(square, 1 - rule.beta2), direction))
    else:
        second = torch.add(torch.mul(moments.second, rule.beta2), torch.mul(square, 1 - rule.beta2))
    step = torch.div(torch.mul(first, rule.server_rate), torch.add(torch.sqrt(second), rule.tau))
    return Settled(torch.add(model, step), Moments(first, second))


def _optimize(rule: Aggregation, model: Tensor, gradient: Tensor, moments: Moments, when: When) -> Settled:
    """One step of torch's SGD or Adam on the mean gradient; `moments` is the state that torch would have kept.

    Torch may round otherwise on another machine: who takes the step again compares to float tolerance. The optimizers'
    functions, not their classes: those import torch's compiler, which takes 90 MB.
    """
    new, first, second = model.clone(), moments.first.clone(), moments.second.clone()
    rate = scheduled_rate(rule, when)
    if rule.rule == "adam":
        steps = torch.tensor(float(when.round - when.began))
        adam(
            [new], [gradient], [first], [second], [], [steps], foreach=False, amsgrad=False, beta1=rule.beta1,
            beta2=rule.beta2, lr=rate, weight_decay=0.0, eps=rule.tau, maximize=False,
        )  # fmt: skip
    else:
        sgd(
            [new], [gradient], [first], foreach=False, weight_decay=0.0, momentum=rule.momentum, lr=rate,
            dampening=0.0, nesterov=False, maximize=False,
        )  # fmt: skip
    return Settled(new, Moments(first, second))


def scheduled_rate(rule: Aggregation, when: When) -> float:
    """The rate of a round of the session."""
    if rule.schedule == "constant":
        return rule.server_rate
    return rule.server_rate * cosine(when.round, when.rounds)


def _middle(stacked: Tensor, faulty: int) -> Tensor:
    """The mean of each number without its `faulty` largest and smallest; with as many as there are, the median."""
    ordered = stacked.sort(dim=0).values
    cut = min(faulty, (len(ordered) - 1) // 2)
    kept = ordered[cut : len(ordered) - cut]
    total = kept[0].clone()
    for each in kept[1:]:
        total.add_(each)
    return total.mul_(float(np.float32(1 / len(kept))))


def _best(products: Tensor, faulty: int, count: int) -> Row:
    """Equal weights for the `count` updates whose nearest neighbours are nearest (Blanchard et al., 2017)."""
    lengths = products.diagonal()
    squared = (lengths[:, None] + lengths[None, :] - 2 * products).clamp_(min=0.0)
    nearest = squared.sort(dim=1).values[:, 1 : max(2, len(products) - faulty - 1)]
    row = np.zeros(len(products))
    row[nearest.sum(dim=1).argsort(stable=True)[:count].numpy()] = 1.0
    return row


def _weiszfeld(products: Tensor) -> Row:
    """Weights whose mixture is the geometric median (Pillutla et al., arXiv:1912.13445)."""
    weights = torch.full((len(products),), 1 / len(products), dtype=torch.float64)
    for _ in range(WEISZFELD_STEPS):
        along = products @ weights
        squared = products.diagonal() - 2 * along + weights @ along
        weights = 1 / squared.clamp(min=0.0).sqrt().clamp(min=1e-6)
        weights = weights / weights.sum()
    return weights.numpy()


def _clipped(products: Tensor, faulty: int) -> Row:
    """The model moved by the clipped differences (He et al., arXiv:2202.01545), which is a weighted mean as well."""
    distances = products.diagonal().sqrt()
    radius = distances.sort().values[max(0, len(products) - faulty - 1)]
    factors = (radius / distances.clamp(min=1e-12)).clamp(max=1.0).numpy()
    shares = factors / (len(products) + 1)
    return np.concatenate([[1 - shares.sum()], shares])

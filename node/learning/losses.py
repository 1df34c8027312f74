"""Cross-entropy in operations that torch maps over members as they are.

Mapped, torch.nn.functional.cross_entropy runs a reference implementation in Python, at each call, and imports a library
for symbolic algebra at the first one. These give the same values and gradients up to rounding (tested).
"""

from collections.abc import Callable

import torch
from torch import Tensor

BatchLoss = Callable[[Tensor, Tensor], Tensor]


def mappable(loss: BatchLoss) -> BatchLoss:
    """A loss `(outputs, targets) -> mean over the batch` to map over members: another form of torch's cross-entropy."""
    return cross_entropy if loss is torch.nn.functional.cross_entropy else loss


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean cross-entropy of outputs (n, classes), or of whatever else torch's own takes."""
    if outputs.dim() != 2 or targets.dim() != 1 or targets.dtype != torch.long:
        return torch.nn.functional.cross_entropy(outputs, targets)
    return cross_entropies(outputs, targets).mean()


def cross_entropies(outputs: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy (n,) of each of the outputs (n, classes) with its class number (n,).

    With the examples as the last dimension in memory, as node.learning.models.WideLinear leaves them: a softmax over
    few classes is then computed for many examples at once, which takes a tenth of the time.
    """
    return -outputs.t().log_softmax(dim=0).gather(0, targets[None]).squeeze(0)

"""Makes `import torchvision` work beside a CPU-only torch, whose build lacks two operators that it looks for.

PyPI's torchvision is linked against CUDA; without these declarations the import dies with "operator torchvision::nms
does not exist". Data sets and transforms work then; the native image operators do not.
"""

import importlib
from types import ModuleType

import torch

MISSING = (
    ("nms", "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"),
    ("qnms", "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"),
)


def import_torchvision() -> ModuleType:
    """The torchvision package with its data sets. Takes about a second the first time, so import late."""
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name, schema in MISSING:
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)  # type: ignore[no-untyped-call]
    importlib.import_module("torchvision.datasets")
    return importlib.import_module("torchvision")

"""Accuracy, precision, recall, F1 and the confusion matrix of a member's predictions, by scikit-learn."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ClassificationMetrics:
    """Fractions; precision, recall and F1 are means over classes (macro). `confusion[true][predicted]` counts."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    confusion: npt.NDArray[np.int64]


def classification_metrics(predicted: Tensor, targets: Tensor, classes: int) -> ClassificationMetrics:
    """Metrics of predicted classes (n,) against target classes (n,); a class that never occurs counts as 0."""
    from sklearn import metrics

    expected, given, labels = targets.numpy(), predicted.numpy(), np.arange(classes)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        expected, given, labels=labels, average="macro", zero_division=0.0
    )
    return ClassificationMetrics(
        accuracy=float(metrics.accuracy_score(expected, given)),
        precision=float(precision),
        recall=float(recall),
        f1=float(f1),
        confusion=metrics.confusion_matrix(expected, given, labels=labels),
    )

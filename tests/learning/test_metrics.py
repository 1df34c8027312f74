import pytest
import torch

from node.learning.metrics import classification_metrics


@pytest.mark.real  # scikit-learn takes a second to import
def test_metrics_of_a_small_example_worked_by_hand():
    metrics = classification_metrics(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 1]), classes=3)
    assert metrics.accuracy == 0.5
    assert metrics.confusion.tolist() == [[1, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert metrics.precision == pytest.approx((0.5 + 1 + 0) / 3)
    assert metrics.recall == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert metrics.f1 == pytest.approx((2 / 3 + 0.5 + 0) / 3)

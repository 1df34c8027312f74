"""The built-in models: softmax regression, a small CNN, a ResNet with GroupNorm. Any nn.Module will do beside them."""

import torch
from torch import Tensor, nn

IMAGE_SIDE = 28


class WideLinear(nn.Linear):
    """nn.Linear for many inputs and few outputs, as (W xᵀ)ᵀ: the long dimension comes last in both matrix products.

    Mapped over members, these are 2 to 4 times as fast as those of nn.Linear (784 inputs, 10 outputs, batches of 128).
    The weights are copied out of the flat vectors, so that on common inputs torch multiplies everybody's at once.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Outputs (n, outputs) of inputs (n, inputs)."""
        return torch.mm(self.weight.contiguous(), input.t()).t() + self.bias


def softmax_regression(features: int = IMAGE_SIDE * IMAGE_SIDE, classes: int = 10) -> nn.Module:
    """Multinomial logistic regression, started at zero (its loss is convex)."""
    layer = WideLinear(features, classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.Flatten(), layer)


def small_cnn(channels: int = 1, side: int = IMAGE_SIDE, classes: int = 10) -> nn.Module:
    """Two convolutions with GroupNorm, each followed by pooling, and a linear layer; 22,000 numbers on 28 × 28."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 5, padding=2),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 24, 5, padding=2),
        nn.GroupNorm(4, 24),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(24 * (side // 4) ** 2, classes),
    )


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions and a shortcut (He et al., 2016), with GroupNorm in the place of BatchNorm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.first_norm = nn.GroupNorm(min(32, outputs), outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.GroupNorm(min(32, outputs), outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.GroupNorm(min(32, outputs), outputs)
            )

    def forward(self, images: Tensor) -> Tensor:
        """Features (n, outputs, h / stride, w / stride) of images (n, inputs, h, w)."""
        hidden = nn.functional.relu(self.first_norm(self.first(images)))
        hidden = self.second_norm(self.second(hidden))
        return nn.functional.relu(hidden + self.shortcut(images))


def resnet18(channels: int = 3, classes: int = 10, width: int = 64) -> nn.Module:
    """ResNet-18 for images of 32 × 32 (He et al., 2016; Hsieh et al., 2020 for GroupNorm); 11 million numbers."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.GroupNorm(min(32, width), width),
        nn.ReLU(),
    ]
    inputs = width
    for stage in range(4):
        outputs = width * 2**stage
        layers.append(ResidualBlock(inputs, outputs, stride=1 if stage == 0 else 2))
        layers.append(ResidualBlock(outputs, outputs, stride=1))
        inputs = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    return nn.Sequential(*layers)

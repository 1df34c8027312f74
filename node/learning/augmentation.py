"""Images made more by what leaves their class alone: a random crop of the padded image, mirrored half the time.

He et al. (2016, section 4.2) train on CIFAR-10 so, with 4 pixels on each side. Knows no data set.
"""

import torch
from torch import Tensor

CIFAR_PADDING = 4


def crop_and_flip(images: Tensor, generator: torch.Generator, padding: int = CIFAR_PADDING) -> Tensor:
    """Images (n, channels, height, width) moved by up to `padding` pixels each way, and mirrored half the time.

    What comes in from outside is 0: of normalised images the mean colour. The generator lies on the CPU, so the same
    draws are made on any device.
    """
    count, channels, height, width = images.shape
    reach = 2 * padding + 1
    down = torch.randint(reach, (count, 1), generator=generator)
    right = torch.randint(reach, (count, 1), generator=generator)
    mirrored = torch.randint(2, (count, 1), generator=generator).bool()
    rows = (down + torch.arange(height)).to(images.device)
    columns = torch.arange(width).expand(count, width)
    columns = (right + torch.where(mirrored, columns.flip(1), columns)).to(images.device)
    padded = torch.nn.functional.pad(images, (padding, padding, padding, padding))
    which = torch.arange(count, device=images.device).view(-1, 1, 1, 1)
    every = torch.arange(channels, device=images.device).view(1, -1, 1, 1)
    return padded[which, every, rows[:, None, :, None], columns[:, None, None, :]]

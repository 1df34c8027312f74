"""Noise that nobody else can compute: ChaCha20 keyed by the member's secret. Knows no model and no budget.

The session's other randomness comes from public values, so that anybody can repeat it. Privacy rests on the opposite:
who can repeat the noise can subtract it. PyTorch's generator is no cipher, so it is not used here either.
"""

import hashlib
import hmac

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from torch import Tensor

SECRET_BYTES = 32
SUMMED = 4  # Gaussians in one number; half their sum has deviation 1


class SecretNoise:
    """A stream of random numbers that depends on the key only; asking for them moves it on."""

    def __init__(self, key: bytes) -> None:
        if len(key) != SECRET_BYTES:
            raise ValueError(f"key of {len(key)} bytes: expected {SECRET_BYTES}")
        self._stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()

    def uniforms(self, count: int) -> Tensor:
        """Numbers (count,) in [0, 1), float64, multiples of 2⁻⁵³."""
        words = np.frombuffer(self._stream.update(bytes(8 * count)), dtype="<u8")
        return torch.from_numpy((words >> np.uint64(11)).astype(np.float64) * 2.0**-53)

    def normals(self, count: int) -> Tensor:
        """Standard normal numbers (count,), float32.

        Each is half the sum of four Gaussians (Box and Muller, 1958), so that the gaps between floats do not tell what
        the noise was added to (Mironov, 2012; Holohan and Braghin, arXiv:2107.10138).
        """
        uniform = self.uniforms(2 * SUMMED * count).view(2, SUMMED, count)
        radius = torch.sqrt(-2 * torch.log1p(-uniform[0]))
        gaussians = radius * torch.cos(2 * torch.pi * uniform[1])
        normals: Tensor = gaussians.sum(dim=0) / 2
        return normals.float()


def round_noise(secret: bytes, context: str, start: Tensor) -> SecretNoise:
    """The noise of one round: the same for the same secret, context (session, member, round) and parameters (size,).

    A round that is repeated after a crash gives the same update, so it releases nothing more. From other parameters it
    gives other noise: one noise under two gradients would tell their difference.
    """
    digest = hashlib.sha256(start.detach().contiguous().numpy().tobytes()).digest()
    message = b"fl-node/noise/1" + hashlib.sha256(context.encode()).digest() + digest
    return SecretNoise(hmac.new(secret, message, "sha256").digest())

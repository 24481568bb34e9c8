"""The data of the benchmarks."""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

TRAIN_ROWS = 1400
HALF_INK = 8  # of 16, in scikit-learn's digits


def digits() -> Tensor:
    """Scikit-learn's 1,797 handwritten digits, 64 pixels each, binarised at half ink."""
    return torch.tensor(load_digits().data >= HALF_INK, dtype=torch.float32)


def split_digits() -> tuple[Tensor, Tensor]:
    """1,400 digits to train and 397 to test on, always the same ones."""
    rows = digits()
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(rows)))
    return rows[order[:TRAIN_ROWS]], rows[order[TRAIN_ROWS:]]


def repeated_digits(count: int) -> tuple[Tensor, str]:
    """Digits repeated to so many rows, and what they are called."""
    rows = digits()
    repeats = -(-count // len(rows))
    return rows.repeat(repeats, 1)[:count], "scikit-learn digits, repeated"


def mnist(count: int, folder: Path | None) -> tuple[Tensor, str]:
    """784 binary pixels a row, and what they are: MNIST if the folder has it, else noise."""
    path = None if folder is None else folder / "mnist.npz"
    if path is None or not path.exists():
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(count, 784, generator=generator) < 0.13
        return noise.float(), "seeded random pixels, 13 % ink"
    with np.load(path) as arrays:
        images = arrays["x_train"][:count]
    pixels = torch.from_numpy(images.reshape(len(images), -1) >= 128)
    return pixels.float(), "MNIST, binarised at half ink"

"""How far samples are from data: two measures that need no likelihood."""

import numpy as np
import torch
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.model_selection import cross_val_score
from torch import Tensor


def nearest_distance(samples: Tensor, rows: Tensor) -> float:
    """Pixels in which a sample differs from the nearest row, a mean over samples.

    >>> nearest_distance(torch.ones(1, 3), torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]))
    1.0
    """
    return float(torch.cdist(samples, rows, p=1).min(1).values.mean())


def two_sample_accuracy(samples: Tensor, rows: Tensor) -> float:
    """Share that a classifier gets right which tells samples from rows it has not seen.

    One half says that it cannot (Lopez-Paz and Oquab 2017, Revisiting classifier two-sample tests).
    """
    both = torch.cat([samples, rows]).numpy()
    label = np.repeat([0, 1], [len(samples), len(rows)])
    forest = ExtraTreesClassifier(300, random_state=0)
    order = np.random.default_rng(0).permutation(len(both))
    return float(cross_val_score(forest, both[order], label[order], cv=5).mean())

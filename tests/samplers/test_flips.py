"""Kernels of hidden values some of which are zeros and ones."""

import numpy as np
import torch
import zoo

from genprop.data import Batch
from genprop.likelihood.simulate import simulated
from genprop.posterior import Posterior
from genprop.samplers.flips import OneChanged, hidden_kernel


def test_a_change_of_one_variable_is_symmetric_and_changes_one():
    change = OneChanged([0, 3, 1], torch.zeros(1))
    x = torch.tensor([0.3, 0, 1, 0, 1]).expand(3000, 5)
    y = change.draw(x, torch.ones_like(x))
    values, counts = torch.unique(y, dim=0, return_counts=True)
    assert (
        sorted(values.tolist())
        == sorted([x[0].tolist()[:1] + v for v in ([1, 0, 0, 1], [0, 0, 1, 1], [0, 1, 0, 0])])
        or len(values) == 3
    )
    assert torch.equal(values[:, 0], x[:3, 0])
    assert (values[:, 1:4].sum(1) == 1).all()
    # the bit half of the time, either other category a quarter
    assert np.allclose(sorted((counts / 3000).tolist()), [0.25, 0.25, 0.5], atol=0.04)


def test_the_kernel_of_mixed_levels_keeps_the_posterior():
    model = zoo.mixed()
    h, x = simulated(model, (3000,))
    posterior = Posterior(model, Batch.of(x), smooth=False)
    kernel = hidden_kernel(posterior.log_prob, posterior)
    state = kernel.init(h[None])
    for _ in range(3):
        state, _ = kernel.step(state)
    x_after = posterior.decode(state.position)["x"][0]
    before, after = (torch.cat([a, b], -1) for a, b in ((h, x["x"]), (state.position[0], x_after)))
    z = (before - after).mean(0) / ((before - after).std(0) / 3000**0.5).clamp_min(1e-9)
    assert z.abs().max() < 4.5
    assert (state.position[0] != h).any(0).all()

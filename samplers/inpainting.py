"""Filling in what is not seen by climbing a density with noise."""

import torch

from genprop.distributions import Scale
from genprop.kernel import LogDensity
from genprop.shapes import Elements, Seen


@torch.no_grad()
def inpaint(
    log_prob: LogDensity,
    x: Elements,
    seen: Seen,
    steps: int = 1000,
    low: float = 0.0,
    high: float = 1.0,
    scale: Scale = 1.0,
) -> Elements:
    r"""Ascends log P(x) in the unseen elements, noise added, by the schedule of NICE.

    For i = 0, 1, …, cut off at the bounds, and with s = 1 in the paper::

        x_unseen ← x_unseen + α_i (s² ∂ log P(x) / ∂ x_unseen + s ε),  ε ~ N(0, I),
        α_i = 10 / (100 + i)

    Where the density is so steep that a step leads beyond both bounds, elements swing from one to
    the other; a smaller s keeps them from it, and several runs with s from large to small, each
    from the end of the last, go far first and near then. It ends about a mode of
    P(x_unseen | x_seen) rather than at a draw of it, since noise of size α_i s is less than the
    √(2α_i) s of Langevin's dynamics. For draws take a prior's ``condition``.

    Args:
        log_prob: log-densities, differentiable by autograd; no gradient is kept.
        x: ``(…, elements)``; in unseen places where it begins, such as noise.
        seen: True where an element is held, any pattern row by row.
        steps: how many.
        low: least value; what falls below is put there.
        high: greatest value.
        scale: s, one number or one for each element.

    Raises:
        ValueError: no step, bounds that are not in order, or a start that is not finite.

    References:
        Dinh, Krueger, Bengio, 2015, NICE (arXiv 1410.8516).

    >>> x, seen = torch.tensor([0.3, 0.0]), torch.tensor([True, False])
    >>> inpaint(lambda x: -1e6 * (x[..., 0] - x[..., 1]).square(), x, seen, steps=1)
    tensor([0.3000, 1.0000])
    """
    if steps < 1 or not low < high:
        raise ValueError(
            f"inpainting needs at least one step and low < high, but got steps={steps}, low={low} "
            f"and high={high}"
        )
    x, seen = torch.broadcast_tensors(x, seen)
    if not bool(torch.isfinite(x[~seen]).all()):
        raise ValueError("inpainting begins at x; put finite numbers where it is not seen")
    now = torch.where(seen, x, x.clamp(low, high))
    for i in range(steps):
        move = scale**2 * _slope(log_prob, now) + scale * torch.randn_like(now)
        now = torch.where(seen, now, (now + 10 / (100 + i) * move).clamp(low, high))
    return now


def _slope(log_prob: LogDensity, x: Elements) -> Elements:
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(log_prob(at).sum(), at)
    return slope.nan_to_num(0.0)  # a place without a slope is left by noise

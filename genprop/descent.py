"""Fitting a prior to codes by gradient descent on its loss."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from genprop.prior import Prior

Loss = Callable[[Tensor], Tensor]

HELD = 10  # one of so many codes decides when to stop
PATIENCE = 10
CHECKS = 8  # draws of the loss of a held code, which may be a noisy bound


@torch.enable_grad()
def descend(
    prior: Prior,
    codes: Tensor,
    loss: Loss | None = None,
    epochs: int = 200,
    batch_size: int = 100,
    lr: float = 2e-3,
) -> None:
    """Minimises the prior's mean loss over codes from its present weights, in place.

    A tenth of the codes is held out; the weights that were best on it are kept, and it stops
    when ten epochs brought nothing better. Neither gradients nor torch's generators are changed.

    Args:
        prior: what learns.
        codes: ``(rows, elements)``.
        loss: of codes in place of ``prior.loss``, for priors with more to learn.
        epochs: most visits of the codes.
        batch_size: codes of a mini-batch, fewer where there are few codes.
        lr: Adam's learning rate, which falls to zero as a cosine.

    Raises:
        ValueError: fewer than two codes.
    """
    if len(codes) < 2:
        raise ValueError(f"a prior is fitted to at least two codes, but got {len(codes)}")
    kept = [p.grad for p in prior.parameters()]
    with torch.random.fork_rng(devices=[codes.device] if codes.is_cuda else []):
        torch.manual_seed(0)
        _descend(prior, codes.detach(), loss or prior.loss, epochs, batch_size, lr)
    for p, grad in zip(prior.parameters(), kept, strict=True):
        p.grad = grad


def _descend(
    prior: Prior, codes: Tensor, loss: Loss, epochs: int, batch_size: int, lr: float
) -> None:
    order = torch.randperm(len(codes), device=codes.device)
    held = codes[order[: max(1, len(codes) // HELD)]]
    rest = codes[order[len(held) :]]
    learned = [p for p in prior.parameters() if p.requires_grad]
    adam = torch.optim.Adam(learned, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, epochs)
    best, weights, waited = _check(prior, held, loss), _weights(prior), 0
    for _ in range(epochs):
        # of few codes small batches, or an epoch is a single step
        _visit(prior, rest, loss, min(batch_size, max(16, len(rest) // 20)), adam)
        schedule.step()
        value = _check(prior, held, loss)
        waited += 1
        if value < best:
            best, weights, waited = value, _weights(prior), 0
        if waited >= PATIENCE:
            break
    prior.load_state_dict(weights)


def _visit(prior: Prior, codes: Tensor, loss: Loss, size: int, adam: torch.optim.Optimizer) -> None:
    was = prior.training
    prior.train()
    for index in torch.randperm(len(codes), device=codes.device).split(size):
        adam.zero_grad()
        loss(codes[index]).mean().backward()
        adam.step()
    prior.train(was)


@torch.no_grad()
def _check(prior: Prior, held: Tensor, loss: Loss) -> float:
    """The mean loss of the held codes, with the same noise every time."""
    was = prior.training
    prior.eval()
    with torch.random.fork_rng(devices=[held.device] if held.is_cuda else []):
        torch.manual_seed(1)
        value = sum(loss(held).mean().item() for _ in range(CHECKS)) / CHECKS
    prior.train(was)
    return value if math.isfinite(value) else math.inf


def _weights(prior: Prior) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in prior.state_dict().items()}

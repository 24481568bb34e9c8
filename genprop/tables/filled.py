"""Completed rows and what is known of them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from genprop.likelihood.pareto import pareto_khat

LENDING = ("residuals", "neighbours")  # of donors
SINGLE = ("mean", "map")  # of which a row has one
CHAINS = ("gibbs", "hmc")
WAYS = ("sir", "prior", *CHAINS, *SINGLE, *LENDING)


@dataclass(frozen=True)
class Filled:
    """Completed rows, and how far the draws can be trusted: NaN where a method does not tell.

    Attributes:
        x: for each modality whole rows ``(draws, rows, elements)``, the seen cells as they were.
        ess: effective sample size of each row's weights.
        khat: Pareto shape of each row's largest weights; above 0.7 they are not to be trusted.
        acceptance: of each row's chains, the mean over moves, if any over trajectories.
        rhat: the largest over hidden values of each row, of the chains' second halves.
        way: what made each row's draws, by its place in ``WAYS``.
    """

    x: dict[str, Tensor]
    ess: Tensor
    khat: Tensor
    acceptance: Tensor
    rhat: Tensor
    way: Tensor

    @classmethod
    def by(cls, way: str, x: dict[str, Tensor]) -> "Filled":
        """Rows completed in one way, of which nothing else is told."""
        first = next(iter(x.values()))
        unknown = torch.full(first.shape[1:2], torch.nan, dtype=torch.double, device=first.device)
        ways = torch.full(first.shape[1:2], WAYS.index(way), device=first.device)
        return cls(x, unknown, unknown, unknown, unknown, ways)

    def weighed(self, log_w: Tensor, khat: bool) -> "Filled":
        """The same with what log-weights ``(samples, rows)`` say, their Pareto shape if asked."""
        ess = effective(log_w)
        if not khat:
            return replace(self, ess=ess)
        shape = torch.as_tensor(pareto_khat(log_w.T.cpu().double().numpy())).to(ess)
        return replace(self, ess=ess, khat=shape)

    def replaced(self, rows: Tensor, by: "Filled") -> "Filled":
        """The same with others in place of these rows."""
        x = {name: value.index_copy(1, rows, by.x[name]) for name, value in self.x.items()}
        rest = {name: getattr(self, name).index_copy(0, rows, getattr(by, name)) for name in _TOLD}
        return Filled(x, **rest)

    def chosen(self, rows: Tensor | slice) -> "Filled":
        """Some of the rows."""
        rest = {name: getattr(self, name)[rows] for name in _TOLD}
        return Filled({name: x[:, rows] for name, x in self.x.items()}, **rest)


_TOLD = [field.name for field in fields(Filled) if field.name != "x"]


def effective(log_w: Tensor) -> Tensor:
    """The effective sample size of each row's log-weights ``(samples, rows)``.

    >>> effective(torch.tensor([[0.0, 0.0], [0.0, -torch.inf]]))
    tensor([2., 1.], dtype=torch.float64)
    """
    return (1 / log_w.softmax(0).square().sum(0)).double()


def together(parts: Sequence[Filled]) -> Filled:
    """The rows of all parts."""
    rest = {name: torch.cat([getattr(part, name) for part in parts]) for name in _TOLD}
    return Filled({n: torch.cat([part.x[n] for part in parts], 1) for n in parts[0].x}, **rest)

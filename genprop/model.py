"""Model: stacks of layers, one a modality, under a prior of their codes."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from genprop.data import Batch
from genprop.prior import Prior
from genprop.shapes import Elements, PerRow, Seen
from genprop.stack import Path, Stack, is_discrete

LogPrior = Callable[[Tensor, Tensor | None], Tensor]


class Model(nn.Module):
    r"""P(x, h) = P(h_L) ∏_l P(h_{l-1} | h_l) beside Q(h | x) = ∏_l Q(h_l | h_{l-1}).

    Every modality has a stack of its own; the prior is that of all codes side by side.

    Args:
        stacks: a stack for each modality, or one alone, which becomes modality ``"x"``.
        prior: its elements are those of all codes together.

    Raises:
        ValueError: the prior has another size, a name cannot be used, or real-valued codes meet
            a discrete prior (or the reverse).

    >>> from genprop.conditional import Bernoulli
    >>> from genprop.priors.gaussian import GaussianPrior
    >>> model = Model(Stack.build(Bernoulli(6), hidden=(4, 2)), GaussianPrior(2))
    >>> model.decode(torch.zeros(3, 2))["x"].x.shape
    torch.Size([3, 6])
    """

    def __init__(self, stacks: Stack | Mapping[str, Stack], prior: Prior) -> None:
        super().__init__()
        named = {"x": stacks} if isinstance(stacks, Stack) else dict(stacks)
        _check(named, prior)
        self.stacks = nn.ModuleDict(named)
        self.prior = prior

    @property
    def sizes(self) -> dict[str, int]:
        """Elements of each modality's code, in their order in the joint code."""
        return {name: stack.code_elements for name, stack in self.named_stacks()}

    def named_stacks(self) -> list[tuple[str, Stack]]:
        """The modalities' names and stacks, in order."""
        return [(n, stack) for n, stack in self.stacks.items() if isinstance(stack, Stack)]

    def check(self, batch: Batch) -> None:
        """Raises ValueError unless the batch has this model's modalities and widths."""
        if list(batch.x) != list(self.stacks):
            raise ValueError(
                f"the model has modalities {list(self.stacks)}, but the data has {list(batch.x)}"
            )
        for name, stack in self.named_stacks():
            width = batch.x[name].shape[-1]
            if width != stack.elements:
                raise ValueError(
                    f"modality {name!r} has {width} elements, but its stack expects "
                    f"{stack.elements}"
                )

    def encode(self, batch: Batch, draws: int = 1, point: bool = False) -> dict[str, Path]:
        """Paths drawn from Q(h | x_seen), ``(draws, rows, elements)`` at every level.

        With ``point`` every level is its law's mode.
        """
        return {
            name: stack.encode(batch.x[name], batch.seen[name], draws, point)
            for name, stack in self.named_stacks()
        }

    def decode(self, code: Elements, mean: bool = False, point: bool = False) -> dict[str, Path]:
        """Paths drawn from P(x, h_1, … | code); with ``mean`` they end at E[x | h_1].

        With ``point`` they end there too, by way of each law's mode.
        """
        parts = code.split(list(self.sizes.values()), dim=-1)
        stacks = zip(self.named_stacks(), parts, strict=True)
        return {name: stack.decode(part, mean, point) for (name, stack), part in stacks}

    def code_seen(self, batch: Batch) -> Seen | None:
        """Which elements of the joint code belong to modalities seen in a row; None says all.

        Of a stack without layers, the code is x, and is seen where x is.
        """
        if all(seen is None for seen in batch.seen.values()):
            return None
        return torch.cat(
            [self._code_seen(name, stack, batch) for name, stack in self.named_stacks()], -1
        )

    def _code_seen(self, name: str, stack: Stack, batch: Batch) -> Tensor:
        x, seen, present = batch.x[name], batch.seen[name], batch.present(name)
        if seen is None or present is None:
            return torch.ones(len(x), stack.code_elements, dtype=torch.bool, device=x.device)
        return present[:, None].expand(-1, stack.code_elements) if len(stack.layers) else seen

    def log_weights(
        self, paths: Mapping[str, Path], batch: Batch, log_prior: LogPrior | None = None
    ) -> PerRow:
        """Log P(x_seen, h) - log Q(h | x_seen) of paths from ``encode``, ``(draws, rows)``, nats.

        A modality of which a row shows nothing has no part in that row.

        Args:
            paths: for each modality a path.
            batch: what they were encoded from.
            log_prior: log P(code_seen); the prior's bound, -loss, unless given.
        """
        total = _log_prior(self.prior, log_prior)(joint_code(paths), self.code_seen(batch))
        for name, stack in self.named_stacks():
            path, present = paths[name], batch.present(name)
            weight = stack.log_p(path, batch.seen[name]) - stack.log_q(path)
            total = total + (weight if present is None else torch.where(present, weight, 0))
        return total


def joint_code(paths: Mapping[str, Path]) -> Elements:
    """The codes of all modalities side by side."""
    codes = [path.code for path in paths.values()]
    return codes[0] if len(codes) == 1 else torch.cat(codes, -1)


def _log_prior(prior: Prior, given: LogPrior | None) -> LogPrior:
    return given or (lambda code, seen: -prior.loss(code, seen))


def _check(stacks: Mapping[str, Stack], prior: Prior) -> None:
    if not stacks:
        raise ValueError("a model needs at least one stack, but got none")
    for name in stacks:
        if not name or "." in name or hasattr(nn.ModuleDict, name):
            raise ValueError(
                f"a modality cannot be called {name!r}; use a plain word without a dot"
            )
    total = sum(stack.code_elements for stack in stacks.values())
    if total != prior.elements:
        raise ValueError(
            f"the codes have {total} elements together, but the prior has {prior.elements}"
        )
    tops = {n: is_discrete(s[-1].encoder.family) for n, s in stacks.items() if len(s.layers)}
    for name, discrete in tops.items():
        if discrete != prior.discrete:
            kinds = ("real-valued", "discrete")
            raise ValueError(
                f"the code of modality {name!r} is {kinds[discrete]}, but {type(prior).__name__} "
                f"is a law of {kinds[prior.discrete]} codes; use prior='factorial' for discrete "
                f"codes, or prior='auto'"
            )

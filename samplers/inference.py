"""Iterative inference by the differences between what layers make of each other."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from genprop.data import Batch
from genprop.model import Model
from genprop.shapes import Seen
from genprop.stack import Path, Stack, joint_code


@dataclass(frozen=True)
class Inference:
    r"""Sweeps that move every level towards what explains the one below and fits the one above.

    With f the means of encoders, g those of decoders and r the prior's reconstruction of the code,
    a sweep goes from the top down::

        h_l ← h_l + δ (f_l(h_{l-1}) - f_l(g_l(h_l))) + α (g_{l+1}(h_{l+1}) - h_l)

    and for the code, if ``noise`` is given, with r(h_L) in place of g. No derivative is taken.
    Where f_l is the mean of P(h_l | h_{l-1}) of linear-Gaussian layers, the first bracket is its
    covariance times the gradient of log P(h_{l-1} | h_l), and the second the variance of
    P(h_l | h_{l+1}) times that of its logarithm. With α = δ·Var Q(h_l | h_{l-1}) over that
    variance, which is used unless α is given, both make one step up log P(x, h), for the code with
    noise² in place of the variance. Elsewhere they do so as far as encoders are such inverses. A δ
    that is too large overshoots.

    What is unseen of x is the decoder's mean, anew in every sweep, on both sides of the first
    difference. Levels are taken as real values. Of a prior that is a model only its reconstruction
    is used.

    Args:
        sweeps: how many.
        delta: δ.
        alpha: α, the same for all levels; the reference has 0.001, and 0.3 where it generates.
        noise: scale of the noise that the prior's reconstruction takes out, the less the nearer to
            the gradient of log P(code); None leaves the prior out of it, as the reference does.
        limits: the least and the greatest value of a level, by its name ``modality.level``.

    Raises:
        ValueError: a negative number of sweeps, noise that is not positive, or limits that leave
            no room.

    References:
        Bengio, Lee, Bornschein, Mesnard, Lin, 2015, Towards biologically plausible deep learning
        (arXiv 1502.04156).

    >>> from genprop.conditional import Gaussian
    >>> from genprop.priors.gaussian import GaussianPrior
    >>> model = Model(Stack.build(Gaussian(6), hidden=(4, 2)), GaussianPrior(2))
    >>> [tuple(h.shape) for h in Inference()(model, Batch.of(torch.ones(5, 6)))["x"].h]
    [(5, 6), (5, 4), (5, 2)]
    """

    sweeps: int = 15
    delta: float = 0.1
    alpha: float | None = None
    noise: float | None = None
    limits: Mapping[str, tuple[float, float]] | None = None

    def __post_init__(self) -> None:
        wrong = [name for name, (low, high) in (self.limits or {}).items() if not low < high]
        if self.sweeps < 0 or wrong or (self.noise is not None and not self.noise > 0):
            raise ValueError(
                f"inference takes no negative number of sweeps, positive noise, and limits (least, "
                f"greatest), but got sweeps={self.sweeps}, noise={self.noise}, limits={self.limits}"
            )

    @torch.no_grad()
    def __call__(
        self, model: Model, batch: Batch, start: Mapping[str, Path] | None = None
    ) -> dict[str, Path]:
        """The path of each modality, ``(rows, elements)`` at every level, unseen cells filled in.

        Args:
            model: the model.
            batch: rows, any of their cells unseen.
            start: where to begin; the encoders' means, each of the one below, unless given.
        """
        model.check(batch)
        batch = batch.to(model.like.device, model.like.dtype)
        paths = dict(start) if start is not None else _climbed(model, batch)
        for sweep in range(self.sweeps + 1):
            for name, stack in model.named_stacks():
                paths[name] = _completed(stack, paths[name], batch.x[name], batch.seen[name])
            if sweep < self.sweeps:
                paths = self._swept(model, paths)
        return paths

    def _swept(self, model: Model, paths: dict[str, Path]) -> dict[str, Path]:
        fits: list[tuple[Tensor, Tensor] | None] = [None] * len(paths)
        if self.noise is not None:
            code = joint_code(paths)
            made = model.prior.reconstruct(code, self.noise).split(list(model.sizes.values()), -1)
            fits = [(part, torch.full_like(part, self.noise**2)) for part in made]
        return {
            name: self._stack_swept(name, stack, paths[name], fit)
            for (name, stack), fit in zip(model.named_stacks(), fits, strict=True)
        }

    def _stack_swept(
        self, name: str, stack: Stack, path: Path, fit: tuple[Tensor, Tensor] | None
    ) -> Path:
        """A sweep from the top down; ``fit`` is the mean and variance that are made from above."""
        h = list(path.h)
        for level in range(len(stack.layers), 0, -1):
            layer, old = stack[level - 1], h[level]
            found, again = layer.encoder(h[level - 1]), layer.encoder(layer.decoder(old).mean)
            new = old + self.delta * (found.mean - again.mean)
            if fit is not None:
                new = new + self._alpha(found.variance, fit[1]) * (fit[0] - old)
            h[level] = self._limited(f"{name}.{level}", new)
            law = layer.decoder(h[level])
            fit = law.mean, law.variance
        if not len(stack.layers) and fit is not None:
            h[0] = fit[0]
        return Path(tuple(h), ())

    def _alpha(self, own: Tensor, above: Tensor) -> Tensor | float:
        return self.delta * own / above if self.alpha is None else self.alpha

    def _limited(self, name: str, h: Tensor) -> Tensor:
        limits = (self.limits or {}).get(name)
        return h if limits is None else h.clamp(*limits)


@torch.no_grad()
def dream(
    model: Model, n: int, inference: Inference | None = None, rounds: int = 3
) -> dict[str, Tensor]:
    r"""Samples of the prior, decoded by means and then drawn to where inference rests.

    ::

        h_L ~ P(h_L);  h_{l-1} = g_l(h_l);  rounds times: h = inference(x),  x = g_1(h_1)

    It is no sampler of P(x): nothing corrects what the sweeps make of the draws.

    Args:
        model: the model.
        n: how many samples.
        inference: the sweeps; with α = 0.3, so that the layers above have a say, unless given.
        rounds: how often x is encoded, improved and decoded again; 0 leaves the draws as they are.

    Returns:
        For each modality expected values ``(n, elements)``.

    Raises:
        ValueError: no sample, or a negative number of rounds.

    References:
        Bengio, Lee, Bornschein, Mesnard, Lin, 2015, Towards biologically plausible deep learning
        (arXiv 1502.04156).

    >>> from genprop.conditional import Gaussian
    >>> from genprop.priors.gaussian import GaussianPrior
    >>> model = Model(Stack.build(Gaussian(6), hidden=(4, 2)), GaussianPrior(2))
    >>> dream(model, 3)["x"].shape
    torch.Size([3, 6])
    """
    if n < 1 or rounds < 0:
        raise ValueError(
            f"a dream has at least one sample and no negative number of rounds, but got n={n}, "
            f"rounds={rounds}"
        )
    inference = inference or Inference(alpha=0.3)
    parts = model.prior.sample((n,)).split(list(model.sizes.values()), -1)
    stacks = list(zip(model.named_stacks(), parts, strict=True))
    x = {name: _descended(stack, code) for (name, stack), code in stacks}
    for _ in range(rounds):
        paths = inference(model, Batch(x, dict.fromkeys(x)))
        x = {
            name: stack[0].decoder(paths[name].h[1]).mean if len(stack.layers) else x[name]
            for name, stack in model.named_stacks()
        }
    return x


def _climbed(model: Model, batch: Batch) -> dict[str, Path]:
    """The means of the encoders, each of what the one below gives."""
    paths = {}
    for name, stack in model.named_stacks():
        h = [batch.x[name]]
        for level in range(len(stack.layers)):
            h.append(stack[level].encoder(h[-1], None if level else batch.seen[name]).mean)
        paths[name] = Path(tuple(h), ())
    return paths


def _descended(stack: Stack, h: Tensor) -> Tensor:
    """The means of the decoders from a code down to x."""
    for level in reversed(range(len(stack.layers))):
        h = stack[level].decoder(h).mean
    return h


def _completed(stack: Stack, path: Path, x: Tensor, seen: Seen | None) -> Path:
    """The path with the decoder's mean where x is not seen."""
    if seen is None:
        return path
    guess = stack[0].decoder(path.h[1]).mean if len(stack.layers) else path.x
    return Path((torch.where(seen, x, guess), *path.h[1:]), ())

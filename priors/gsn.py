"""Denoising auto-encoders of one noise level as priors: the laws of their Markov chains."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from genprop.conditional import Categorical, Family
from genprop.corruption import Additive, Corruption, Redrawn
from genprop.descent import descend
from genprop.distributions import SAMPLE_SHAPE, Discrete, Product, Scale
from genprop.nets import MLP, constant
from genprop.prior import FollowingPrior, Prior, known_part
from genprop.resampling import evenly
from genprop.shapes import Elements, PerRow, Seen

TARGETS = ("nearest", "soft")


class ChainPrior(Prior, ABC):
    """P(h), the law of a chain h̃ ~ C(· | h), h ~ P(· | h̃) = family(net(h̃)).

    The net is told of each element whether it is noisy, or given as it is, or absent.
    """

    family: Family
    net: nn.Module
    corruption: Corruption
    noise: float
    walkback: int
    units: tuple[int, ...]
    steps: int

    @abstractmethod
    def aim(self, h: Elements, noisy: Elements, known: Seen) -> Elements:
        """What P(· | h̃) is to give where h was corrupted to h̃ and some of it is known."""

    def sample(self, shape: Sequence[int]) -> Elements:
        like = self.get_buffer("like")
        return self.run(like.expand(*shape, -1), torch.zeros_like(like, dtype=torch.bool))

    def reconstruct(self, h: Elements, scale: Scale) -> Elements:
        """E[h' | h' + scale·ε = h], from P(· | h̃ = h) for the prior's own noise.

        What the corruption told of h' is taken out of that law, and what the Gaussian noise tells
        is put in. For real-valued codes the mean r and the variance τ² of the reconstruction give::

            h + (r - h) · scale² / (τ² + scale² (1 - τ² / noise²)),    τ² at most noise²

        which is r where the scale is the noise, and exact at every scale where P is a product of
        Gaussians that family and net hold; h + scale² (r - h) / τ² for a small scale. For discrete
        codes it is exact where P(h | h̃) is, for the value h̃ nearest to h.
        """
        shown = self.corruption.nearest(h)
        law = self._law(shown, torch.zeros_like(h, dtype=torch.bool))
        evidence = self.corruption.precision(h)
        if self.discrete:
            return law.denoise(h - scale**2 * evidence * (shown - 0.5), scale)
        variance = torch.minimum(law.variance, 1 / evidence)
        share = scale**2 / (variance + scale**2 * (1 - variance * evidence))
        return h + (law.mean - h) * share

    def condition(self, h: Elements, seen: Seen) -> "ChainGiven":
        return ChainGiven(self, h, seen)

    @torch.no_grad()
    def run(self, h: Elements, given: Seen) -> Elements:
        """Where chains are after ``steps`` reconstructions, the given elements of h held.

        They start at h̃ ~ P_0, corrupt what is not given and see the rest as it is.
        """
        h, given = torch.broadcast_tensors(h, given)
        shown = self.corruption.start(h).sample(h.shape[:-1])
        for step in range(self.steps):
            shown = shown if step == 0 else self.corruption.draw(h)
            drawn = self._law(torch.where(given, h, shown), given).sample()
            h = torch.where(given, h, drawn)
        return h

    def bound(self, h: Elements, seen: Seen) -> PerRow:
        """The mean over walkback steps of -log P(h | h̃_i), and KL(C(· | h) ‖ P_0), in nats."""
        costs = list(self.costs(h, seen, torch.zeros_like(seen), own=True))
        anchor = torch.where(seen, self.corruption.divergence(h), 0).sum(-1)
        return torch.stack(costs).mean(0) + anchor

    def costs(self, h: Elements, noisy: Seen, given: Seen, own: bool = False) -> Iterator[PerRow]:
        """-log P(target | h̃_i) of the noisy elements for each walkback step i.

        Args:
            h: the code.
            noisy: what of it is corrupted and reconstructed.
            given: what of it is shown as it is; the rest is absent.
            own: whether the target is h itself, whatever the prior aims at.
        """
        state = h
        for step in range(self.walkback):
            # draws of a row share noise, because importance weights compare their costs
            corrupted = self.corruption.draw(state, h.shape[-2:])
            shown = torch.where(noisy, corrupted, torch.where(given, h, 0))
            law = self._law(shown, given, ~(noisy | given))
            aim = h if own else self.aim(h, shown, noisy | given)
            yield -law.log_prob(aim, noisy)
            if step + 1 < self.walkback:
                state = law.sample()

    def practised(self, h: Elements, seen: Seen) -> PerRow:
        """The mean cost where at random some elements are noisy, some given and some absent."""
        lead = (*h.shape[:-1], 1)
        share, shown = torch.rand((2, *lead), dtype=h.dtype, device=h.device)
        noisy = seen & (self.corruption.uniform(h) < share)
        given = seen & ~noisy & (self.corruption.uniform(h) < shown)
        return torch.stack(list(self.costs(h, noisy, given))).mean(0)

    def _build(
        self, family: Family, noise: float, walkback: int, units: Sequence[int], steps: int
    ) -> None:
        if min(walkback, steps) < 1:
            raise ValueError(
                f"a chain needs at least one walkback step and one step of sampling, but got "
                f"walkback={walkback} and steps={steps}"
            )
        self.family, self.elements = family, family.elements
        self.noise, self.walkback, self.units, self.steps = noise, walkback, tuple(units), steps
        self.discrete = isinstance(family(torch.zeros(family.outputs)), Discrete)
        sizes = family.sizes if isinstance(family, Categorical) else None
        self.corruption = Redrawn(noise, sizes) if self.discrete else Additive(noise)
        # tanh units keep the net's word bounded, so that no chain wanders off for good
        self.net = MLP(4 * family.elements, family.outputs, units)
        self.register_buffer("like", torch.zeros(family.elements))

    def _law(self, shown: Tensor, given: Tensor, absent: Tensor | None = None) -> Product:
        """P(h | h̃)."""
        absent = torch.zeros_like(given) if absent is None else absent
        flags = [flag.to(shown.dtype).expand_as(shown) for flag in (given, absent)]
        # what is given and what is noisy weigh differently: each has inputs of its own
        values = [torch.where(given, 0, shown), torch.where(given, shown, 0)]
        law: Product = self.family(self.net(torch.cat([*values, *flags], -1)))
        return law

    @property
    def _learns(self) -> bool:
        learned = any(p.requires_grad for p in self.parameters())
        return self.training and torch.is_grad_enabled() and learned


class GSNPrior(ChainPrior):
    r"""P(h), where the chain h̃ ~ C(· | h), h ~ P(· | h̃) comes to rest; it has no density.

    C adds Gaussian noise to real-valued codes and redraws variables of discrete ones. If P(h | h̃)
    is what C makes of some law P(h), reversed, that law is where the chain rests; so the net
    learns to reconstruct. With independent units P(h | h̃) can be that for small noise only, or for
    independent codes; an ``Autoregressive`` family need not leave it at that.

    The loss is, with h̃_1 ~ C(· | h), h*_i ~ P(· | h̃_i), h̃_{i+1} ~ C(· | h*_i) (walkback)::

        -(1/n) Σ_i log P(h | h̃_i) + KL(C(· | h) ‖ P_0)

    P_0 is N(0, (1 + noise²) I) or uniform. With ``walkback=1`` its mean over h̃ is an upper bound on
    -log P_1(h), P_1(h) = ∫ P_0(h̃) P(h | h̃) dh̃: what ``sample`` draws with ``steps=1``, one
    reconstruction from a simple start. It bounds no probability of the chain after more steps, and
    with more walkback no probability at all: the later costs are of ways back from where the chain
    went. The best net for those leaves the chain at rest at P(h) too, but what it says is broader,
    and independent units hold it less well. The divergence, constant for discrete codes, holds the
    scale of real-valued ones.

    In training mode the loss's gradient also teaches the net, by as many costs again that leave its
    value alone, to go without elements that are absent and to use those that are given. ``loss`` of
    partly seen codes and ``condition`` rest on that: the chain of P(h_unseen | h_seen) corrupts
    only what is unseen and sees the rest as it is. Were that corrupted too and put back after each
    step, as is often done, the chain would not rest at the conditional even for the best net.

    Args:
        family: P(· | h̃): ``Gaussian``, ``Logistic``, ``Bernoulli``, ``Categorical`` or
            ``Autoregressive``, as codes are.
        noise: the scale of the Gaussian noise, or the probability that a variable is redrawn.
        walkback: steps n of the chain that are to lead back to h.
        units: hidden units of the net.
        steps: reconstructions that make a draw.

    Raises:
        ValueError: no step, or noise that cannot be.

    References:
        Bengio, Yao, Alain, Vincent, 2013, Generalized denoising auto-encoders as generative models
        (arXiv 1305.6663). Bengio, Thibodeau-Laufer, Alain, Yosinski, 2014, Deep generative
        stochastic networks trainable by backprop (arXiv 1306.1091).

    >>> from genprop.conditional import Bernoulli
    >>> GSNPrior(Bernoulli(3)).sample((5,)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        family: Family,
        noise: float = 0.5,
        walkback: int = 1,
        units: Sequence[int] = (128, 128),
        steps: int = 100,
    ) -> None:
        super().__init__()
        self._build(family, noise, walkback, units, steps)

    def aim(self, h: Elements, noisy: Elements, known: Seen) -> Elements:
        return h

    def loss(self, h: Elements, seen: Seen | None = None) -> PerRow:
        h, seen = known_part(h, seen)
        value = self.bound(h, seen)
        return _taught(value, self.practised(h.detach(), seen)) if self._learns else value

    def refit(self, codes: Elements) -> None:
        """Gradient descent from the present weights, until held-out codes gain no more."""
        descend(self, codes)


class NeighbourPrior(ChainPrior, FollowingPrior):
    r"""P(h), the law of a chain whose net is to find the code of a training row nearest to h̃.

    Where noise is large P(h | h̃) has many modes, and what reconstructs their mean lies between
    them. Here the net learns from another target than the code that was corrupted::

        nearest    the h_i that is nearest to h̃
        soft       Σ_i w_i h_i,  w_i ∝ C(h̃ | h_i)

    of the codes h_i of training rows, which training hands over before every epoch. The soft target
    is E[h | h̃] if each h_i is as probable as any other; for real-valued codes, whose
    w_i ∝ exp(-‖h̃ - h_i‖² / 2 noise²), it is one step of the mean shift on the Parzen density of
    that bandwidth. The nearest one is its limit for vanishing noise. Both leave nothing to chance:
    a learned scale of the family gets as small as the net is good, so that ``Gaussian(elements,
    scale=noise)``, which stands for the Parzen density, is the family to take.

    The loss's value, and its gradient in h, are those of ``GSNPrior``, what it bounds included: h
    is drawn to what the net makes of it. Its gradient in the parameters is that of
    -(1/n) Σ_i log P(target of h̃_i | h̃_i), for h noisy and for some of it given or absent.

    Args:
        family: as for ``GSNPrior``.
        noise: as for ``GSNPrior``.
        walkback: as for ``GSNPrior``.
        units: as for ``GSNPrior``.
        steps: as for ``GSNPrior``.
        target: ``"nearest"`` or ``"soft"``.
        bank: how many codes are kept; of more rows, so many evenly spread over them.

    Raises:
        ValueError: as for ``GSNPrior``; another target, no place for a code, or no codes yet.

    References:
        Bengio, 2014, How auto-encoders could provide credit assignment in deep networks via
        target propagation (arXiv 1407.7906). Fukunaga, Hostetler, 1975, The estimation of the
        gradient of a density function.

    >>> from genprop.conditional import Gaussian
    >>> prior = NeighbourPrior(Gaussian(1, scale=0.5), bank=2)
    >>> prior.follow(torch.tensor([[-1.0], [2.0]]))
    >>> h = torch.tensor([[0.4], [0.6]])
    >>> prior.aim(h, h, h == h)
    tensor([[-1.],
            [ 2.]])
    """

    def __init__(
        self,
        family: Family,
        noise: float = 0.5,
        walkback: int = 1,
        units: Sequence[int] = (128, 128),
        steps: int = 100,
        target: str = "nearest",
        bank: int = 2048,
    ) -> None:
        super().__init__()
        if target not in TARGETS:
            raise ValueError(f"target must be one of {', '.join(TARGETS)}, but is {target!r}")
        if bank < 1:
            raise ValueError(f"a NeighbourPrior keeps at least one code, but got bank={bank}")
        self._build(family, noise, walkback, units, steps)
        self.target, self.bank = target, bank
        self.register_buffer("codes", torch.zeros(bank, family.elements))
        self.register_buffer("log_weights", torch.full((bank,), -math.inf))

    @torch.no_grad()
    def aim(self, h: Elements, noisy: Elements, known: Seen) -> Elements:
        codes, log_weights = self.get_buffer("codes"), self.get_buffer("log_weights")
        if not torch.isfinite(log_weights[0]):
            raise ValueError(
                "a NeighbourPrior learns from codes of training rows, but has none yet; give it "
                "some by follow(codes), as training does"
            )
        precision = torch.where(known, self.corruption.precision(noisy), 0)
        # -½ Σ_j (h̃_j - h_ij)² / w_j², but for what is the same for all codes
        fit = (precision * noisy) @ codes.mT - 0.5 * precision @ codes.square().mT + log_weights
        if self.target == "nearest":
            return codes[fit.argmax(-1)]
        mean: Tensor = fit.softmax(-1) @ codes
        return mean

    def loss(self, h: Elements, seen: Seen | None = None) -> PerRow:
        h, seen = known_part(h, seen)
        if not self._learns:
            return self.bound(h, seen)
        with constant(self):
            value = self.bound(h, seen)
        costs = torch.stack(list(self.costs(h.detach(), seen, torch.zeros_like(seen))))
        return _taught(value, costs.mean(0) + self.practised(h.detach(), seen))

    @torch.no_grad()
    def follow(self, codes: Elements) -> None:
        kept = codes[evenly(len(codes), self.bank, codes.device)]
        self.get_buffer("codes").zero_()[: len(kept)] = kept
        self.get_buffer("log_weights").fill_(-math.inf)[: len(kept)] = 0

    def refit(self, codes: Elements) -> None:
        """Follows the codes, and learns as long as the bound of held-out ones gets better."""
        self.follow(codes)
        descend(self, codes)


class ChainGiven(Distribution):
    """Draws of P(unseen | seen) by a chain in which the seen elements are given.

    Args:
        prior: whose chain it is.
        h: the values to hold, ``(…, elements)``; what it holds in unseen places is not used.
        seen: True where a value is held, any pattern row by row.
    """

    arg_constraints = {}

    def __init__(self, prior: ChainPrior, h: Elements, seen: Seen) -> None:
        self.prior = prior
        self.h, self.seen = torch.broadcast_tensors(h, seen)
        super().__init__(self.h.shape[:-1], self.h.shape[-1:], validate_args=False)

    def sample(self, sample_shape: Sequence[int] = SAMPLE_SHAPE) -> Elements:
        """Whole codes, the seen elements as they are."""
        h = torch.where(self.seen, self.h, 0)
        return self.prior.run(h.expand(*sample_shape, *h.shape), self.seen)


def _taught(value: Tensor, lesson: Tensor) -> Tensor:
    """The value, with the gradient of the lesson beside its own."""
    return value + lesson - lesson.detach()

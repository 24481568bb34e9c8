"""The prior of a normalizing flow."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from genprop.descent import descend
from genprop.distributions import SAMPLE_SHAPE, Scale
from genprop.flows import build_flow
from genprop.guide import Guide
from genprop.kernel import run
from genprop.prior import DensityPrior, FollowingPrior
from genprop.samplers.hamiltonian import HMC
from genprop.shapes import Elements, PerRow, Seen

NUMBERS_AT_ONCE = 2**24
DEFAULTS = (None, (64, 64), "silu", "gaussian")
TAUGHT = 4  # proposals in training


class FlowPrior(DensityPrior, FollowingPrior):
    r"""P(h) = P_z(f(h)) |det ∂f/∂h| for an invertible f that is learned, its density exact.

    Marginals and conditionals of a flow are not known in closed form. A Gaussian *guide* with the
    mean and covariance of the codes (N(0, I) before any were seen), called g here, proposes::

        log P(h_seen)   log (1/K) Σ_k P(h_seen, u_k) / g(u_k | h_seen),  u_k ~ g(· | h_seen)
        reconstruct     Σ_k w_k h_k,  h_k ~ g(h | h + scale·ε = y),  w_k ∝ P(h_k) / g(h_k)
        condition       one of K proposals, chosen with those weights, then Hamiltonian Monte
                        Carlo of the unseen elements

    The mean of the first over proposals lies below log P(h_seen), so that ``loss`` is the upper
    bound which it has to be, and ``log_prob`` of a row that is partly seen is this estimate. It is
    good where g is near P, and gets worse with the number of unseen elements. Rows that are fully
    seen are exact, and of a row of which nothing is seen both are 0. In training mode ``loss`` has
    at most four proposals: what holds P nearer to g, where little is known, was better learned.

    Args:
        elements: the size of a code.
        flow: ``"nice"``, ``"realnvp"``, ``"nsf"``, ``"maf"`` or ``"cnf"``, as ``build_flow``
            describes them; splines are the identity beyond ±5, so they want codes within. Or a
            flow of Zuko without context; a saved model needs it again when it is loaded, as
            ``load(…, modules={"prior.flow": flow})``.
        transforms: how many follow each other; the flow's usual number unless given.
        units: hidden units of each net.
        activation: of the nets, as for ``MLP``; gradients of a smooth one serve conditioning.
        base: law of z, ``"gaussian"`` or ``"logistic"``.
        draws: proposals K.
        warmup: transitions of Hamiltonian Monte Carlo that tune it, for each conditional draw.
        transitions: further ones before the draw is taken.

    Raises:
        ValueError: an unknown name, no element, no proposal, or a flow that is not one of
            ``elements`` real numbers, or that comes with arguments of the named flows.

    References:
        Rezende, Mohamed, 2015, Variational inference with normalizing flows. Dinh, Krueger,
        Bengio, 2015, NICE (arXiv 1410.8516). Burda, Grosse, Salakhutdinov, 2016, Importance
        weighted autoencoders (the bound).

    >>> prior = FlowPrior(2, "nice")
    >>> prior.log_prob(torch.zeros(2)).exp()
    tensor(0.1592, grad_fn=<ExpBackward0>)
    >>> seen = torch.tensor([[True, False], [False, False]])
    >>> prior.condition(torch.ones(2, 2), seen).sample((5,)).shape
    torch.Size([5, 2, 2])
    """

    discrete = False

    def __init__(
        self,
        elements: int,
        flow: str | nn.Module = "nsf",
        transforms: int | None = None,
        units: Sequence[int] = (64, 64),
        activation: str = "silu",
        base: str = "gaussian",
        draws: int = 64,
        warmup: int = 50,
        transitions: int = 20,
    ) -> None:
        super().__init__()
        _check_chain(draws, warmup, transitions)
        options = (transforms, tuple(units), activation, base)
        self.elements, self.flow, self.units = elements, flow, tuple(units)
        self.transforms, self.activation, self.base = transforms, activation, base
        self.draws, self.warmup, self.transitions = draws, warmup, transitions
        self.built = build_flow(flow, elements, *options) if isinstance(flow, str) else None
        if isinstance(flow, nn.Module):
            _check_flow(flow, elements, options)
        self.guide = Guide(elements)

    @property
    def law(self) -> Distribution:
        """P(h) as a distribution, without masks."""
        flow = self.get_submodule("flow" if self.built is None else "built")
        law: Distribution = flow()
        return law

    def sample(self, shape: Sequence[int]) -> Elements:
        return self.law.sample(torch.Size(shape))

    def log_prob(self, h: Elements, seen: Seen | None = None) -> PerRow:
        """Log P(h_seen) in nats: exact, or the estimate from K proposals where partly seen."""
        return self._log_density(h, seen, self.draws)

    def loss(self, h: Elements, seen: Seen | None = None) -> PerRow:
        draws = min(TAUGHT, self.draws) if self.training else self.draws
        return -self._log_density(h, seen, draws)

    @torch.no_grad()
    def reconstruct(self, h: Elements, scale: Scale) -> Elements:
        """E[h' | h' + scale·ε = h] by self-normalised importance sampling from the guide's."""
        draws = self.guide.posterior(h, scale, self.draws)
        log_w = _sound(self._exact(draws) - self.guide.law.log_prob(draws))
        return (log_w.softmax(0)[..., None] * draws).sum(0)

    def condition(self, h: Elements, seen: Seen) -> "FlowGiven":
        return FlowGiven(self, h, seen)

    def follow(self, codes: Elements) -> None:
        self.guide.follow(codes)

    def refit(self, codes: Elements) -> None:
        """Maximum likelihood by gradient descent from the present weights, as ``descend`` does."""
        if any(p.requires_grad for p in self.parameters()):
            descend(self, codes)
        self.follow(codes)

    def _log_density(self, h: Tensor, seen: Tensor | None, draws: int) -> Tensor:
        if seen is None:
            return self._exact(h)
        h, seen = torch.broadcast_tensors(h, seen)
        rows, masks = h.reshape(-1, self.elements), seen.reshape(-1, self.elements)
        whole = masks.all(-1)
        values = rows.new_zeros(len(rows))
        if bool(whole.any()):
            values = values.index_put((whole,), self._exact(rows[whole]))
        partly = masks.any(-1) & ~whole
        if bool(partly.any()):
            values = values.index_put(
                (partly,), self._marginals(rows[partly], masks[partly], draws)
            )
        return values.reshape(h.shape[:-1])

    def _exact(self, h: Tensor) -> Tensor:
        log_prob: Tensor = self.law.log_prob(h)
        return log_prob.to(h.dtype)  # nets may run in half precision

    def _marginals(self, h: Tensor, seen: Tensor, draws: int) -> Tensor:
        """Estimates of log P(h_seen) of rows ``(rows, elements)``, a bounded number at a time."""
        size = max(1, NUMBERS_AT_ONCE // (self.elements * max(draws, self.elements)))
        parts = zip(h.split(size), seen.split(size), strict=True)
        return torch.cat([self._estimates(*part, draws) for part in parts])

    def _estimates(self, h: Tensor, seen: Tensor, draws: int) -> Tensor:
        given = self.guide.law.given(torch.where(seen, h, 0), seen)
        # a proposal moves with the mean that its row gives it, and so carries the gradient to h
        mean = given.mean
        whole = mean + (given.sample((draws,)) - mean).detach()
        whole = torch.where(seen, h, whole)
        log_w = self._exact(whole) - given.log_prob(whole)
        return log_w.logsumexp(0) - math.log(draws)


class FlowGiven(Distribution):
    """P(h_unseen | h_seen) of a flow prior, drawn by chains that begin at weighted proposals.

    Every draw is the end of a chain of its own, so that draws are independent, and as near to the
    law as the chain came.

    Args:
        prior: the flow prior.
        h: the values to hold, ``(…, elements)``; what it holds in unseen places is not used.
        seen: True where a value is held, any pattern row by row.
    """

    arg_constraints = {}

    def __init__(self, prior: FlowPrior, h: Elements, seen: Seen) -> None:
        h, self.seen = torch.broadcast_tensors(h, seen)
        self.prior, self.h = prior, torch.where(self.seen, h, 0)
        super().__init__(h.shape[:-1], h.shape[-1:], validate_args=False)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = SAMPLE_SHAPE) -> Elements:
        """Whole codes, the seen elements as they are."""
        count = math.prod(sample_shape)
        h, seen = self.h.reshape(-1, *self.event_shape), self.seen.reshape(-1, *self.event_shape)
        whole = h.expand(count, *h.shape).clone()
        nothing = ~seen.any(-1)
        whole[:, nothing] = self.prior.sample((count, int(nothing.sum())))
        partly = seen.any(-1) & ~seen.all(-1)
        if count and bool(partly.any()):
            whole[:, partly] = self._chains(h[partly], seen[partly], count)
        return whole.reshape(*sample_shape, *self.h.shape)

    def log_prob(self, value: Elements) -> PerRow:
        """Log P(unseen | seen) in nats, as exact as the prior's log P(h_seen)."""
        return self.prior.log_prob(value) - self.prior.log_prob(value, self.seen)

    def _chains(self, h: Tensor, seen: Tensor, count: int) -> Tensor:
        """The ends of so many chains of each row, ``(count, rows, elements)``."""
        # in units of the guide, in which one step suits all elements
        loc, unit = self.prior.guide.loc, self.prior.guide.law.variance.sqrt()

        def log_density(standard: Tensor) -> Tensor:
            return self.prior.log_prob(torch.where(seen, h, loc + unit * standard))

        start = (self._starts(h, seen, count) - loc) / unit
        kernel = HMC(log_density, free=~seen)
        chain = run(kernel, start, draws=1, warmup=self.prior.warmup, thin=self.prior.transitions)
        return torch.where(seen, h, loc + unit * chain.draws[:, 0])

    def _starts(self, h: Tensor, seen: Tensor, count: int) -> Tensor:
        """Proposals of the guide, of K for each chain one, with probability ∝ P / g."""
        given = self.prior.guide.law.given(h, seen)
        best, found = h.new_full((count, len(h)), -math.inf), h.expand(count, *h.shape)
        for size in _parts(self.prior.draws, NUMBERS_AT_ONCE // max(1, count * h.numel())):
            proposals = given.sample((size, count))
            log_w = _sound(self.prior.log_prob(proposals) - given.log_prob(proposals))
            # the largest of log-weights with Gumbel noise is a draw in proportion to the weights
            noisy, index = (log_w - torch.empty_like(log_w).exponential_().log()).max(0)
            chosen = proposals.gather(0, index[None, ..., None].expand(1, *found.shape))[0]
            better = noisy > best
            found = torch.where(better[..., None], chosen, found)
            best = torch.where(better, noisy, best)
        return found


def _parts(total: int, most: int) -> list[int]:
    size = max(1, most)
    return [min(size, total - done) for done in range(0, total, size)]


def _sound(log_w: Tensor) -> Tensor:
    """A proposal that the flow cannot weigh has no weight."""
    return torch.where(torch.isfinite(log_w), log_w, torch.finfo(log_w.dtype).min)


def _check_chain(draws: int, warmup: int, transitions: int) -> None:
    if draws < 1 or warmup < 0 or transitions < 1:
        raise ValueError(
            f"a flow prior needs at least one proposal and one transition and no negative warm-up, "
            f"but got draws={draws}, warmup={warmup}, transitions={transitions}"
        )


def _check_flow(flow: nn.Module, elements: int, options: tuple[object, ...]) -> None:
    if options != DEFAULTS:
        raise ValueError(
            "transforms, units, activation and base are those of a flow made by name; a flow that "
            "is given brings its own, so leave them out"
        )
    try:
        with torch.no_grad():
            first = next(flow.parameters(), torch.zeros(()))
            found = flow().log_prob(torch.zeros(2, elements).to(first)).shape
    except Exception as error:  # a flow may be any module, which may raise anything
        raise ValueError(
            f"flow must be a flow of Zuko over {elements} elements without context, but the "
            f"density of such rows could not be computed: {error}"
        ) from error
    if found != (2,):
        raise ValueError(
            f"flow must be a flow of Zuko over {elements} elements, but its log-density of 2 rows "
            f"has shape {tuple(found)}"
        )

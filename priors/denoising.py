"""The denoising auto-encoder of many noise levels as a prior with a density."""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.distributions import Distribution

from genprop.denoiser import Denoiser
from genprop.descent import descend
from genprop.diffusion import HIGHEST, LOWEST, Levels, Rate, flow, mixing, reverse
from genprop.distributions import HALF_LOG_2PI, SAMPLE_SHAPE, Scale
from genprop.prior import DensityPrior, known_part
from genprop.resampling import picked, resampled
from genprop.shapes import Elements, PerRow, Seen

SAMPLERS = ("flow", "reverse")
DIVERGENCES = ("exact", "hutchinson")
ROWS_AT_ONCE = 2048


class DenoisingPrior(DensityPrior):
    r"""P(h), where a flow from N(0, I) ends that a denoising net drives.

    Seen at the log signal-to-noise ratio λ, a code is z = α h + σ ε, α² = sigmoid(λ),
    σ² = sigmoid(-λ). The net u(z, λ) estimates the velocity v = α ε - σ h, and by that E[h | z],
    as α z - σ u. At first u = 0 and P = N(0, I). P is *defined* by the flow dz/dφ = u in the
    noise angle φ, tan φ = σ/α: z ~ N(0, I) is carried from λ = -8 to λ = 10, and h is where it
    ends, so that, along the path back from h, ::

        log P(h) = log N(z(-8); 0, I) + ∫ tr ∂u/∂z dφ

    The loss needs no path, only a few levels λ ~ p and noise::

        loss(h) = -log N(h; 0, I) + α² (‖u‖² - 2 u·v) / (2 p(λ))

    Its mean over λ and ε is the variational bound ½ ∫ E‖ε - σ z - α u‖² dλ with both its ends; the
    part that is left where u = 0 is put in closed form. For every u it is at least -log P'(h),
    where P' is the law of the reversed diffusion (``sampler="reverse"``, in infinitely many steps).
    P' and P are the same, but for the ends, where u = E[v | z] for the law of some h. For another u
    they differ, and the bound may lie below -log P(h) at one h, but not on average over h ~ P,
    since E_P[loss] ≥ -E_P log P' ≥ -E_P log P.

    The ends: λ = -8 is not quite noise alone, and σ = 0.007 at λ = 10, not 0. Where u is best for
    N(m, s²), this changes the mean of log P by less than 0.003 nats an element for
    0.1 ≤ s ≤ 4 and |m| ≤ 4. Codes of another size should be scaled.

    Elements that were not seen are absent from the net's input, and P(h_seen) is the law that the
    net then stands for; given ones are shown without noise. The net learns both from random
    patterns: its marginals and conditionals are estimates, which P itself does not imply.

    Args:
        elements: the size of a code.
        units: the widths of the net's two hidden layers.
        masked: whether the net learns marginals and conditionals beside P, by a second loss on
            random patterns. It costs half the time of training, and some of the net's capacity.
        parts: the sizes of the codes that make up h, one for each modality, or None. Every second
            random pattern is then one of whole parts, and in it each part has a noise level of its
            own: the row's; or none, when it is given; or one between, when the net sees it through
            so much noise; or it is absent, which is noise alone.
        levels: how levels are drawn in training, ``"fixed"`` or ``"learned"``; see ``Levels``.
        levels_per_row: levels drawn for each row; more is less noise in what is learned.
        steps: Runge-Kutta steps of the flow, each of which asks the net four times.
        sampler: ``"flow"`` draws from P, ``"reverse"`` from P' by 4 · steps steps.
        divergence: ``"exact"`` costs what one random vector does, but rows that show different
            elements are not solved together, pattern after pattern; ``"hutchinson"`` estimates it
            for all rows at once by random vectors of ±1.
        probes: how many of these.
        candidates: what a draw given seen elements is picked from, by P(h) / Q(h_unseen | h_seen)
            where Q is the net's own conditional: with more of them draws come to P's conditional,
            at the cost of two log-densities for each. One leaves the net's as it is.

    Raises:
        ValueError: a size or a number that is not positive, parts that do not make up the
            elements, or an unknown choice.

    References:
        Alain, Bengio, 2014, What regularized auto-encoders learn from the data-generating
        distribution (arXiv 1211.4246). Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, 2021,
        Score-based generative modeling through stochastic differential equations (arXiv
        2011.13456). Kingma, Salimans, Poole, Ho, 2021, Variational diffusion models (arXiv
        2107.00630). Song, Durkan, Murray, Ermon, 2021, Maximum likelihood training of score-based
        diffusion models (arXiv 2101.09258). Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud,
        2019, FFJORD (arXiv 1810.01367), for Hutchinson's estimate. Bounoua, Franzese, Michiardi,
        2024, Multi-modal latent diffusion (arXiv 2306.04445), for levels of each modality's own.

    >>> prior = DenoisingPrior(2)
    >>> prior.log_prob(torch.zeros(2)), prior.loss(torch.zeros(2)).detach()
    (tensor(-1.8379), tensor(1.8379))
    """

    discrete = False

    def __init__(
        self,
        elements: int,
        units: Sequence[int] = (128, 128),
        masked: bool = True,
        levels: str = "fixed",
        levels_per_row: int = 4,
        steps: int = 16,
        sampler: str = "flow",
        divergence: str = "exact",
        probes: int = 16,
        candidates: int = 1,
        parts: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        _check(levels_per_row=levels_per_row, steps=steps, probes=probes, candidates=candidates)
        if parts is not None and (sum(parts) != elements or min(parts) < 1):
            raise ValueError(
                f"parts are the sizes of the codes that make up {elements} elements, all "
                f"positive, but are {tuple(parts)}"
            )
        _known("sampler", sampler, SAMPLERS)
        _known("divergence", divergence, DIVERGENCES)
        self.elements, self.units, self.masked = elements, tuple(units), masked
        self.levels, self.levels_per_row = levels, levels_per_row
        self.steps, self.sampler = steps, sampler
        self.divergence, self.probes, self.candidates = divergence, probes, candidates
        self.parts = None if parts is None else tuple(parts)
        self.net = Denoiser(elements, units, masked=masked)
        self.noise_levels = Levels(levels)

    def sample(self, shape: Sequence[int]) -> Elements:
        like = self.noise_levels.mass
        noise = torch.randn((*shape, self.elements), dtype=like.dtype, device=like.device)
        return self._drawn(noise, noise, torch.zeros_like(noise, dtype=torch.bool))

    def loss(self, h: Elements, seen: Seen | None = None) -> PerRow:
        h, noisy = self._parted(h, seen)
        value = self._bound(h, noisy)
        if not (self.masked and self._learns):
            return value
        # the value stays the bound; the gradient also teaches the net marginals and conditionals
        practice = self._practice(h.detach(), noisy)
        return value + practice - practice.detach()

    def _bound(self, h: Tensor, noisy: Tensor) -> Tensor:
        standard = 0.5 * h.square().sum(-1) + HALF_LOG_2PI * noisy.sum(-1)
        return standard + self._excess(h, noisy, _rest(noisy, torch.zeros_like(noisy), h))

    def _practice(self, h: Tensor, seen: Tensor) -> Tensor:
        """What teaches marginals and conditionals, in random patterns of what was seen."""
        noisy, given = _random_states(seen, self.parts)
        held = h
        if self.parts is not None:
            held = given.sqrt() * h + (1 - given).sqrt() * torch.randn_like(h)
        return self._excess(h, noisy, _rest(noisy, given, held))

    def _lesson(self, h: Tensor) -> Tensor:
        """All that the net learns: the bound, and marginals and conditionals in random patterns."""
        whole = torch.ones_like(h, dtype=torch.bool)
        bound = self._bound(h, whole)
        return bound + self._practice(h, whole) if self.masked else bound

    def log_prob(self, h: Elements, seen: Seen | None = None) -> PerRow:
        """Log P(h_seen) in nats; a graph is made only where h needs a gradient."""
        return self.estimate(h, seen)[0]

    def estimate(self, h: Elements, seen: Seen | None = None) -> tuple[PerRow, PerRow]:
        """Log P(h_seen), and the standard error of Hutchinson's estimate, 0 where it is exact."""
        h, noisy = self._parted(h, seen)
        return self._density(h, noisy, given=False)

    def reconstruct(self, h: Elements, scale: Scale) -> Elements:
        """E[h' | h' + scale·ε = h] as the net estimates it.

        Where the scale differs between the elements of a row, what a Gaussian h' would be is exact
        for each, and the net's correction is asked for at their root mean square.
        """
        noise = torch.as_tensor(scale, dtype=h.dtype, device=h.device).expand_as(h)
        mean = noise.square().mean(-1, keepdim=True).sqrt().clamp_min(math.exp(-0.5 * HIGHEST))
        level = (-2 * mean.log()).clamp_min(LOWEST)
        root = (1 + mean.square()).sqrt()
        u: Tensor = self.net(h / root, level)
        return h / (1 + noise.square()) - noise.square() / (mean * root) * u

    def condition(self, h: Elements, seen: Seen) -> "DenoisingGiven":
        return DenoisingGiven(self, h, seen)

    def refit(self, codes: Elements) -> None:
        """Goes on learning from the present weights, by ``descend``."""
        descend(self, codes, self._lesson)

    @property
    def _learns(self) -> bool:
        learned = any(p.requires_grad for p in self.parameters())
        return self.training and torch.is_grad_enabled() and learned

    def _parted(self, h: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor]:
        h, seen = known_part(h, seen)
        if not self.masked and bool((seen.any(-1) & ~seen.all(-1)).any()):
            raise ValueError(
                "this prior was made with masked=False and knows whole codes only, but of some a "
                "part was seen; make it with masked=True"
            )
        return h, seen

    def _excess(self, h: Tensor, noisy: Tensor, rest: Tensor | None) -> Tensor:
        """For each row an estimate of what the bound is more than that of u = 0."""
        level, weight = self.noise_levels.draw(math.prod(h.shape[-2:-1]), self.levels_per_row)
        # draws of a row share levels and noise, because importance weights compare their losses
        lead = (self.levels_per_row, *[1] * (h.ndim - 2), *h.shape[-2:-1])
        level, weight = level.reshape(*lead, 1), weight.reshape(lead)
        noise = torch.randn((*lead, self.elements), dtype=h.dtype, device=h.device)
        alpha, sigma = mixing(level)
        shown = torch.where(noisy, alpha * h + sigma * noise, 0)
        u = torch.where(noisy, self.net(shown, level, rest), 0)
        velocity = alpha * noise - sigma * h
        part = 0.5 * alpha[..., 0].square() * (u * (u - 2 * velocity)).sum(-1)
        if self._learns:
            self.noise_levels.follow(level[..., 0].expand_as(part), part)
        return (weight * part).mean(0)

    def _density(self, h: Tensor, noisy: Tensor, given: bool) -> tuple[Tensor, Tensor]:
        """The log-density of noisy elements, the others given or absent, and its error."""
        flat, mask = h.reshape(-1, self.elements), noisy.reshape(-1, self.elements)
        with torch.set_grad_enabled(torch.is_grad_enabled() and h.requires_grad):
            groups = self._solved_together(mask)
            parts = [self._solved(flat[rows], mask[rows], given) for rows in groups]
            back = torch.cat(groups).argsort()
            value, error = (torch.cat(part)[back] for part in zip(*parts, strict=True))
        return value.reshape(h.shape[:-1]), error.reshape(h.shape[:-1])

    def _solved_together(self, mask: Tensor) -> list[Tensor]:
        """Rows in parts of bounded size; for the exact divergence, of one pattern each."""
        order, counts = torch.arange(len(mask), device=mask.device), [len(mask)]
        if self.divergence == "exact" and not mask.all():
            which = mask.unique(dim=0, return_inverse=True)[1]
            order, counts = which.argsort(), which.bincount().tolist()
        return [rows for group in order.split(counts) for rows in group.split(ROWS_AT_ONCE)]

    def _solved(self, h: Tensor, mask: Tensor, given: bool) -> tuple[Tensor, Tensor]:
        rate = self._rate(h, mask, given)
        end, spread = flow(rate, torch.where(mask, h, 0), self.steps, up=True)
        start = -0.5 * end.square().sum(-1) - HALF_LOG_2PI * mask.sum(-1)
        if len(spread) == 1:
            return start + spread[0], torch.zeros_like(start)
        return start + spread.mean(0), spread.std(0) / math.sqrt(self.probes)

    def _rate(self, h: Tensor, mask: Tensor, given: bool) -> Rate:
        """Of rows of one pattern: u where noisy, and its divergence, ``(1 or probes, rows)``."""
        rest = _rest(mask, ~mask & given, h)
        ask: Rate
        if self.divergence == "exact":
            coupling = self.net.coupling(mask[:1].any(0))
            ask = partial(self.net.with_trace, coupling=coupling, rest=rest)
        else:
            vectors = _signs(mask, self.probes, h)
            ask = partial(self.net.with_products, vectors=vectors, rest=rest)

        def rate(z: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
            u, divergence = ask(z, level)
            return torch.where(mask, u, 0), torch.atleast_2d(divergence)

        return rate

    @torch.no_grad()
    def _drawn(self, noise: Tensor, h: Tensor, given: Tensor) -> Tensor:
        """Draws made of noise, the given elements of h held."""
        flat = [t.reshape(-1, self.elements).split(ROWS_AT_ONCE) for t in (noise, h, given)]
        parts = [self._drawn_together(*part) for part in zip(*flat, strict=True)]
        return torch.cat(parts).reshape(noise.shape)

    def _drawn_together(self, noise: Tensor, h: Tensor, given: Tensor) -> Tensor:
        rest = _rest(~given, given, h)

        def rate(z: Tensor, level: Tensor) -> tuple[Tensor]:
            return (self.net(torch.where(given, 0, z), level, rest),)

        if self.sampler == "flow":
            z = flow(rate, noise, self.steps, up=False)[0]
        else:
            z = reverse(rate, noise, 4 * self.steps)
        return torch.where(given, h, z)


class DenoisingGiven(Distribution):
    """What the net takes for P(h_unseen | h_seen); draws are whole codes, the seen held.

    With several candidates a draw is resampled from so many by P(h) / Q(h_unseen | h_seen) (Rubin,
    1988), and so comes nearer to what P implies; ``log_prob`` is of the net's own.

    Args:
        prior: the prior.
        h: the values to hold, ``(…, elements)``; what it holds in unseen places is not used.
        seen: True where a value is held, any pattern row by row.
    """

    arg_constraints = {}

    def __init__(self, prior: DenoisingPrior, h: Elements, seen: Seen) -> None:
        self.prior = prior
        self.h, self.seen = prior._parted(h, seen)
        super().__init__(self.h.shape[:-1], self.h.shape[-1:], validate_args=False)

    def sample(self, sample_shape: Sequence[int] = SAMPLE_SHAPE) -> Elements:
        """Whole codes, the seen elements as they are."""
        if self.prior.candidates == 1:
            return self._proposed(sample_shape)
        draws = math.prod(sample_shape)
        h = self._proposed((draws * self.prior.candidates,))
        with torch.no_grad():
            log_w = (self.prior.log_prob(h) - self.log_prob(h)).flatten(1)
        flat = h.reshape(len(h), -1, self.prior.elements)
        return picked(flat, resampled(log_w, draws)).reshape(*sample_shape, *self.h.shape)

    def _proposed(self, shape: Sequence[int]) -> Elements:
        h = self.h.expand(*shape, *self.h.shape)
        return self.prior._drawn(torch.randn_like(h), h, self.seen.expand_as(h))

    def log_prob(self, value: Elements) -> PerRow:
        """Log P(unseen | seen) in nats; what is seen is what was given, whatever the value says."""
        whole = torch.where(self.seen, self.h, value)
        return self.prior._density(whole, ~self.seen.expand_as(whole), given=True)[0]


def _rest(noisy: Tensor, given: Tensor, h: Tensor) -> Tensor | None:
    """What the net is told of the elements that are not noisy; None where all are.

    Given may be a share α², of elements that h holds as seen through noise of their own.
    """
    if bool(noisy.all()):
        return None
    share = given.to(h.dtype)
    return torch.cat([share, (~noisy).to(h.dtype) - share, torch.where(given > 0, h, 0)], -1)


def _random_states(seen: Tensor, parts: Sequence[int] | None) -> tuple[Tensor, Tensor]:
    """Of what was seen, noisy elements at random and the share α² in which others are given.

    Row by row the numbers of both are random, too. In every second row all elements of a part are
    alike, and every second part that is given is seen through noise.
    """
    low, high = torch.rand(2, *seen.shape[:-1], 1, device=seen.device).sort(0).values
    place = torch.rand(seen.shape, device=seen.device)
    share = torch.ones_like(place)
    if parts is not None:
        whole = torch.rand(low.shape, device=seen.device) < 0.5
        place = torch.where(whole, _alike(parts, seen), place)
        share = torch.where(whole, _clear(parts, seen), share)
    return seen & (place < low), torch.where(seen & (place > high), share, 0)


def _alike(parts: Sequence[int], like: Tensor) -> Tensor:
    """A number between 0 and 1 for every part, ``(…, elements)``."""
    each = torch.rand(*like.shape[:-1], len(parts), device=like.device)
    return each.repeat_interleave(torch.tensor(parts, device=like.device), -1)


def _clear(parts: Sequence[int], like: Tensor) -> Tensor:
    """α² for every part: 1 for every second, else of a level between the ends, each as likely."""
    level = LOWEST + (HIGHEST - LOWEST) * _alike(parts, like)
    return torch.where(_alike(parts, like) < 0.5, 1, level.sigmoid())


def _signs(mask: Tensor, probes: int, like: Tensor) -> Tensor:
    """Vectors of random signs, ``(probes, rows, elements)``, zero where an element is not noisy."""
    signs = 2.0 * torch.randint(2, (probes, *mask.shape), device=like.device) - 1
    return torch.where(mask, signs.to(like.dtype), 0)


def _check(**counts: int) -> None:
    for name, count in counts.items():
        least = 2 if name == "probes" else 1
        if count < least:
            raise ValueError(f"{name} must be at least {least}, but is {count}")


def _known(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, but is {value!r}")

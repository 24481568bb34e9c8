"""Model: stacks of layers, one a modality, under a prior of their codes."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from genprop.data import Batch
from genprop.descent import descend
from genprop.distributions import SAMPLE_SHAPE, Scale
from genprop.modality_weights import checked_weights
from genprop.passage import Foot, climb_stack, straight_through
from genprop.prior import Prior
from genprop.pyro_programs import Programs
from genprop.resampling import picked, resampled
from genprop.shapes import Elements, PerRow, Seen
from genprop.stack import Path, Stack, is_discrete, joint_code, joint_x

LogPrior = Callable[[Tensor, Tensor | None], Tensor]
NESTED = "prior"  # in names: of the model that is a model's prior
PROPOSALS = 200  # paths of which a conditional draw is one


class Model(Prior):
    r"""P(x, h) = P(h_L) ∏_l P(h_{l-1} | h_l) beside Q(h | x) = ∏_l Q(h_l | h_{l-1}).

    Every modality has a stack of its own; the prior is that of all codes side by side. A model is
    a prior itself, P(x) of whatever vectors x stands for: over the codes of other stacks it is
    their deep top level, as if its layers stood on theirs.

    Args:
        stacks: a stack for each modality, or one alone, which becomes modality ``"x"``.
        prior: its elements are those of all codes together.
        samples: paths K of its loss as a prior, -log (1/K) Σ_k P(x, h_k) / Q(h_k | x).
        weights: by modality a factor of log P(x_m | h) in training by a rule, 1 unless given; with
            another one what is trained is no bound on log P(x). Nothing else looks at it.

    Raises:
        ValueError: the prior has another size, a name cannot be used, no sample, real-valued codes
            meet a discrete prior (or the reverse), or a weight has no place or is not positive.

    >>> from genprop.conditional import Bernoulli
    >>> from genprop.priors.gaussian import GaussianPrior
    >>> model = Model(Stack.build(Bernoulli(6), hidden=(4, 2)), GaussianPrior(2))
    >>> model.decode(torch.zeros(3, 2))["x"].x.shape
    torch.Size([3, 6])
    """

    def __init__(
        self,
        stacks: Stack | Mapping[str, Stack],
        prior: Prior,
        samples: int = 1,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        named = {"x": stacks} if isinstance(stacks, Stack) else dict(stacks)
        _check(named, prior)
        self.weights = checked_weights(weights or {}, named, isinstance(prior, Model))
        if samples < 1:
            raise ValueError(f"a model needs at least one sample for its loss, but got {samples}")
        self.stacks = nn.ModuleDict(named)
        self.prior, self.samples = prior, samples
        self.elements = sum(self.widths.values())
        self.discrete = all(
            is_discrete(stack[0].decoder.family) if len(stack.layers) else prior.discrete
            for stack in named.values()
        )

    @property
    def sizes(self) -> dict[str, int]:
        """Elements of each modality's code, in their order in the joint code."""
        return {name: stack.code_elements for name, stack in self.named_stacks()}

    @property
    def widths(self) -> dict[str, int]:
        """Elements of each modality."""
        return {name: stack.elements or 0 for name, stack in self.named_stacks()}

    def named_stacks(self) -> list[tuple[str, Stack]]:
        """The modalities' names and stacks, in order."""
        return [(n, stack) for n, stack in self.stacks.items() if isinstance(stack, Stack)]

    def all_stacks(self) -> list[tuple[str, Stack]]:
        """The same, and then those of a prior that is a model, as ``prior.modality``."""
        if not isinstance(self.prior, Model):
            return self.named_stacks()
        above = [(f"{NESTED}.{name}", stack) for name, stack in self.prior.all_stacks()]
        return self.named_stacks() + above

    @property
    def bare(self) -> bool:
        """Whether no stack has a layer, whatever the prior: the code is the data itself."""
        return not any(len(stack.layers) for _, stack in self.named_stacks())

    @property
    def has_layers(self) -> bool:
        """Whether any stack, here or in a prior that is a model, has a layer."""
        return any(len(stack.layers) for _, stack in self.all_stacks())

    @property
    def like(self) -> Tensor:
        """A tensor of the model's device and precision."""
        tensors: list[Tensor] = list(self.state_dict().values())
        return next(t for t in tensors if t.is_floating_point())

    @property
    def summit(self) -> Prior:
        """The prior above all layers: the prior, or the summit of a prior that is a model."""
        return self.prior.summit if isinstance(self.prior, Model) else self.prior

    def batch(self, h: Elements, seen: Seen | None = None, told: Seen | None = None) -> Batch:
        """Vectors of all modalities side by side as rows of this model.

        Args:
            h: the vectors.
            seen: what of them is seen; None says all.
            told: what of them encoders are told; None says all that is seen.
        """
        widths = list(self.widths.values())

        def parts(v: Tensor) -> dict[str, Tensor]:
            return dict(zip(self.stacks, v.split(widths, -1), strict=True))

        masks = {} if seen is None else parts(seen)
        x = {n: torch.where(masks[n], v, 0) if masks else v for n, v in parts(h).items()}
        return Batch(x, {n: masks.get(n) for n in x}, None if told is None else dict(parts(told)))

    def feet(self, batch: Batch) -> Iterator[Foot]:
        """Where the climbs through the stacks begin."""
        for name, stack in self.named_stacks():
            x, seen, told = batch.x[name], batch.seen[name], batch.told(name)
            yield Foot(name, stack, x, seen, batch.present(name), told)

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
        return self._known(batch, batch.seen)

    def code_told(self, batch: Batch) -> Seen | None:
        """Which elements of the joint code encoders above are told; None says all that is seen."""
        return None if batch.shown is None else self._known(batch, batch.shown)

    def lifted(self, batch: Batch) -> "tuple[Model, Batch] | None":
        """The prior and the same rows as its data, where it is a model and no stack has a layer."""
        above = self.prior
        if not isinstance(above, Model) or not self.bare:
            return None
        code, known = (
            torch.cat([*batch.x.values()], -1),
            (self.code_seen(batch), self.code_told(batch)),
        )
        return above, above.batch(code, *known)

    def _known(self, batch: Batch, masks: Mapping[str, Tensor | None]) -> Seen | None:
        if all(mask is None for mask in masks.values()):
            return None
        stacks = self.named_stacks()
        return torch.cat([self._code_known(s, batch.x[n], masks[n]) for n, s in stacks], -1)

    def _code_known(self, stack: Stack, x: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            shape = (*x.shape[:-1], stack.code_elements)
            return torch.ones(shape, dtype=torch.bool, device=x.device)
        if stack.elementwise:
            return mask
        present = mask.any(-1)
        return present[..., None].expand(*present.shape, stack.code_elements)

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
        own = log_prior or (lambda code, seen: -self.prior.loss(code, seen))
        total = own(joint_code(paths), self.code_seen(batch))
        for name, stack in self.named_stacks():
            path, present = paths[name], batch.present(name)
            weight = stack.log_p(path, batch.seen[name]) - stack.log_q(path, batch.seen[name])
            total = total + (weight if present is None else torch.where(present, weight, 0))
        return total

    def as_pyro(self) -> Programs:
        """P(x, h) and Q(h | x) as Pyro's model and guide: ``SVI(p.model, p.guide, …)``."""
        above = self.prior.as_pyro() if isinstance(self.prior, Model) else None
        return Programs(self, dict(self.named_stacks()), self.prior, above)

    def sample(self, shape: Sequence[int]) -> Elements:
        return joint_x(self.decode(self.prior.sample(shape)))

    def loss(self, h: Elements, seen: Seen | None = None) -> PerRow:
        """-log (1/K) Σ_k P(h_seen, path_k) / Q(path_k | h_seen), paths from Q, in nats.

        Its mean is an upper bound on -log P(h_seen), and differentiable.
        """
        batch, shape = self.batch(h, seen), torch.Size((self.samples,))
        tops: dict[str, Tensor] = {}
        log_w = h.new_zeros(())
        for foot in self.feet(batch):
            tops[foot.name] = foot.x.expand(*shape, *foot.x.shape)
            for passage in climb_stack(foot, shape, straight_through, local=False):
                log_p = passage.p.log_prob(passage.below, passage.seen)
                log_w = log_w + passage.only_present(log_p) - passage.log_q()
                tops[foot.name] = passage.h
        log_w = log_w - self.prior.loss(torch.cat(list(tops.values()), -1), self.code_seen(batch))
        return math.log(self.samples) - log_w.logsumexp(0)

    @torch.no_grad()
    def log_estimate(self, h: Elements, log_prior: LogPrior, seen: Seen | None = None) -> PerRow:
        """The log of an unbiased estimate of P(h_seen), by one path from Q.

        Args:
            h: vectors of all modalities side by side.
            log_prior: log P(code_seen), or the log of an unbiased estimate of it.
            seen: what of h is seen.
        """
        batch = self.batch(h, seen)
        return self.log_weights(self.encode(batch), batch, log_prior)[0]

    def reconstruct(self, h: Elements, scale: Scale) -> Elements:
        """E[h' | h' + scale·ε = h] with the path above h' drawn once from Q(· | h)."""
        paths = self.encode(self.batch(h))
        noise = torch.as_tensor(scale, dtype=h.dtype, device=h.device).expand_as(h)
        spreads = self.batch(noise).x
        parts = [
            stack[0].decoder(paths[name].h[1][0]).denoise(paths[name].x[0], spreads[name])
            for name, stack in self.named_stacks()
            if len(stack.layers)
        ]
        if len(parts) < len(self.stacks):
            raise ValueError(
                "a model reconstructs codes by its layers, but one of its stacks has none; give "
                "that stack a layer"
            )
        return torch.cat(parts, -1)

    def condition(self, h: Elements, seen: Seen) -> "Completion":
        return Completion(self, h, seen)

    def refit(self, codes: Elements) -> None:
        """Trains the whole model on the codes, as a prior, by the gradient of its loss.

        Every second code is whole, and of the others a part is hidden, so that encoders learn to
        read any part.
        """
        descend(self, codes, self._lesson)

    def _lesson(self, h: Tensor) -> Tensor:
        masks = [mask for mask in self.batch(h).hide(0.5).seen.values() if mask is not None]
        return self.loss(h, torch.cat(masks, -1))

    @torch.no_grad()
    def complete(
        self, batch: Batch, draws: int = 1, samples: int = PROPOSALS
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Draws of what a batch does not show: paths of Q, drawn again by their weights, decoded.

        A modality of which a row shows nothing gets its code from the prior, given the others'.

        Args:
            batch: rows, any of their cells unseen.
            draws: how many completions of each row.
            samples: paths from which each is drawn.

        Returns:
            For each modality whole rows ``(draws, rows, elements)``, the seen cells as they were;
            and the log-weights ``(samples, rows)``.
        """
        lifted = self.lifted(batch)
        if lifted is not None:
            above, rows = lifted
            x, log_w = above.complete(rows, draws, samples)
            return self.batch(torch.cat([*x.values()], -1)).x, log_w
        # without a layer all paths are the data itself
        paths = self.encode(batch, samples if self.has_layers else 1)
        log_w = self.log_weights(paths, batch)
        chosen = resampled(log_w, draws)
        kept = {
            name: Path(tuple(picked(h, chosen) for h in path.h), path.laws)
            for name, path in paths.items()
        }
        below = self.absent(batch, kept, mean=False)
        x = {name: self._completed(batch, name, path, below) for name, path in kept.items()}
        return x, log_w

    def absent(self, batch: Batch, paths: Mapping[str, Path], mean: bool) -> dict[str, Path]:
        """Paths down from the prior's code given those codes of the rows' paths that are seen.

        There are none where all are seen. ``mean`` puts E[x | h_1] in place of a draw of x.
        """
        seen = self.code_seen(batch)
        if seen is None:
            return {}
        code = joint_code(paths)
        seen = seen.expand(code.shape)
        return self.decode(self.prior.condition(code, seen).sample(), mean)

    def _completed(self, batch: Batch, name: str, path: Path, below: Mapping[str, Path]) -> Tensor:
        seen = batch.seen[name]
        if seen is None or not below:
            return path.x
        stack = dict(self.named_stacks())[name]
        drawn = below[name].x
        if not stack.elementwise:
            own = stack[0].decoder(path.h[1]).given(batch.x[name], seen).sample()
            drawn = torch.where(seen.any(-1, keepdim=True), own, drawn)
        return torch.where(seen, batch.x[name], drawn)


class Completion(Distribution):
    """P(unseen | seen) of a model, drawn by importance resampling of its encoders' paths.

    Args:
        model: the model.
        h: vectors of all its modalities side by side, ``(…, elements)``.
        seen: True where a value is held.
    """

    arg_constraints = {}

    def __init__(self, model: Model, h: Elements, seen: Seen) -> None:
        self.model, self.seen = model, seen
        self.h = h.expand(torch.broadcast_shapes(h.shape, seen.shape))
        super().__init__(self.h.shape[:-1], self.h.shape[-1:], validate_args=False)

    def sample(self, sample_shape: Sequence[int] = SAMPLE_SHAPE) -> Elements:
        """Whole vectors, the seen elements as they are."""
        shape = torch.Size(sample_shape)
        rows, elements = self.h.reshape(-1, self.h.shape[-1]), self.h.shape[-1]
        batch = self.model.batch(rows, self.seen.expand_as(self.h).reshape(-1, elements))
        x, _ = self.model.complete(batch, draws=shape.numel())
        return torch.cat(list(x.values()), -1).reshape(*shape, *self.h.shape)


def _check(stacks: Mapping[str, Stack], prior: Prior) -> None:
    if not stacks:
        raise ValueError("a model needs at least one stack, but got none")
    for name in stacks:
        if not name or "." in name or hasattr(nn.ModuleDict, name) or name == NESTED:
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

"""The prior made of the top encoders' own laws."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from genprop.conditional import Conditional, Gaussian
from genprop.distributions import IndependentNormal
from genprop.mixture import MixtureNormal
from genprop.nets import MLP
from genprop.prior import LawPrior
from genprop.shapes import Elements

T = TypeVar("T")

NUMBERS_AT_ONCE = 2**22
PULL = 1e-3


class VampPrior(LawPrior):
    r"""P(h) = Σ_k π_k ∏_m Q_m(h_m | u_km), Q_m the top encoder of modality m.

    The pseudo-inputs u_k, which stand for what the top encoders read, are learned, and so are the
    weights π_k. The best prior of all is the mean of Q(h | x) over the data; this one has its form,
    with K inputs in place of the data. The encoders are those of the stacks, not copies, so that
    what the prior learns of codes moves them too, but nothing below them: with one layer it is the
    prior of the paper, with more layers it is that of the top one.

    Args:
        encoders: the top encoder of each modality, in the order of the model's stacks; their
            families are ``Gaussian``.
        components: how many pseudo-inputs.
        binary: whether an encoder reads zeros and ones, one for all or one for each; its
            pseudo-inputs are then kept between them.
        inputs: how many elements an encoder reads, one for all or one for each; an ``MLP`` knows.

    Raises:
        ValueError: no encoder, no component, an encoder whose law is not Gaussian or whose number
            of inputs is unknown, or another number of arguments than of encoders.

    References:
        Tomczak, Welling, 2018, VAE with a VampPrior (arXiv 1705.07120).

    >>> from genprop.stack import Stack
    >>> stack = Stack.build(Gaussian(6), hidden=(4, 2))
    >>> prior = VampPrior([stack[-1].encoder], components=3)
    >>> prior.elements, [tuple(u.shape) for u in prior.pseudo_inputs]
    (2, [(3, 4)])
    """

    discrete = False

    def __init__(
        self,
        encoders: Sequence[Conditional],
        components: int = 50,
        binary: bool | Sequence[bool] = False,
        inputs: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if not len(encoders) or components < 1:
            raise ValueError(
                f"a VampPrior needs at least one encoder and one component, but got "
                f"{len(encoders)} and {components}"
            )
        self.components, self.binary, self.inputs = components, binary, inputs
        self.elements = sum(_gaussian(encoder).elements for encoder in encoders)
        self._reads_bits = _for_each("binary", binary, len(encoders))
        known = _for_each("inputs", inputs, len(encoders))
        widths = [_width(*pair) for pair in zip(encoders, known, strict=True)]
        self._law: MixtureNormal | None = None
        self.encoders = nn.ModuleList(encoders)
        self.logits = nn.Parameter(torch.zeros(components))
        self.pseudo_inputs = nn.ParameterList(torch.randn(components, n) for n in widths)

    @property
    def law(self) -> MixtureNormal:
        """The mixture as a distribution; its gradient reaches pseudo-inputs and encoders."""
        if self._law is not None:
            return self._law
        parts = zip(self.encoders, self.pseudo_inputs, self._reads_bits, strict=True)
        laws = [encoder(u.sigmoid() if bits else u) for encoder, u, bits in parts]
        loc = torch.cat([law.mean for law in laws], -1)
        scale = torch.cat([law.stddev for law in laws], -1)
        return MixtureNormal(self.logits.log_softmax(-1), IndependentNormal(loc, scale))

    @contextmanager
    def held(self) -> Iterator[None]:
        with torch.no_grad():
            self._law = self.law
        try:
            yield
        finally:
            self._law = None

    def refit(self, codes: Elements) -> None:
        """Maximum likelihood of pseudo-inputs and weights by L-BFGS; the encoders stay.

        It goes on from the present pseudo-inputs, for no code tells which inputs lead to it. A weak
        pull to zero keeps them finite.
        """
        own = [self.logits, *self.pseudo_inputs]
        search = torch.optim.LBFGS(own, max_iter=200, line_search_fn="strong_wolfe")

        def misfit() -> Tensor:
            value, slopes = self._misfit(codes.detach(), own)
            for parameter, slope in zip(own, slopes, strict=True):
                parameter.grad = slope
            return value

        with torch.enable_grad(), _calm(self):
            search.step(misfit)
        search.zero_grad()

    def _misfit(self, codes: Tensor, own: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """-log P(h), its mean over codes, and its slopes in these alone; a part of codes a time."""
        law, rows = self.law, max(1, NUMBERS_AT_ONCE // (self.components * self.elements))
        value = torch.stack([p.square().sum() for p in own]).sum() * PULL / len(codes)
        slopes = torch.autograd.grad(value, own)
        for part in codes.split(rows):
            more = -law.log_prob(part).sum() / len(codes)
            found = torch.autograd.grad(more, own, retain_graph=True)
            slopes = tuple(a + b for a, b in zip(slopes, found, strict=True))
            value = value + more.detach()
        return value.detach(), slopes


@contextmanager
def _calm(module: nn.Module) -> Iterator[None]:
    """Within it nothing in the module is in training mode: no dropout, no running means."""
    busy = [part for part in module.modules() if part.training]
    for part in busy:
        part.training = False
    try:
        yield
    finally:
        for part in busy:
            part.training = True


def _gaussian(encoder: Conditional) -> Gaussian:
    if not isinstance(encoder.family, Gaussian):
        raise ValueError(
            f"a VampPrior mixes Gaussian encoders, but one gives {type(encoder.family).__name__}; "
            f"give the top layer latent='gaussian', or take another prior"
        )
    return encoder.family


def _width(encoder: Conditional, inputs: int | None) -> int:
    """How many elements the encoder reads."""
    if isinstance(encoder.net, MLP):
        inputs = encoder.net.inputs if inputs is None else inputs
        if inputs != encoder.net.inputs:
            raise ValueError(f"an encoder reads {encoder.net.inputs} elements, not {inputs}")
    if inputs is None or inputs < 1:
        raise ValueError(
            f"how many elements the net of an encoder, a {type(encoder.net).__name__}, reads is "
            f"not known; give inputs=, a positive number for each encoder"
        )
    return inputs


def _for_each(name: str, value: T | Sequence[T], encoders: int) -> Sequence[T]:
    """One value for each encoder."""
    values = value if isinstance(value, Sequence) else [value] * encoders
    if len(values) != encoders:
        raise ValueError(
            f"{name} says {len(values)} things about {encoders} encoders; give one, or one for each"
        )
    return values

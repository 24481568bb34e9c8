"""Layers of encoders Q(h_l | h_{l-1}) and decoders P(h_{l-1} | h_l), and paths through them."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from genprop.conditional import (
    Autoregressive,
    Bernoulli,
    Categorical,
    Conditional,
    Family,
    Gaussian,
)
from genprop.convolutional import ConvolutionalDecoder, ConvolutionalEncoder, Convolutions
from genprop.distributions import Discrete, Product
from genprop.nets import MLP, Identity
from genprop.regressed import Regressed
from genprop.shapes import Elements, PerRow, Seen

LATENTS = ("gaussian", "bernoulli", "categorical", "autoregressive")
CATEGORIES = 10

Units = Sequence[int] | Convolutions


class Layer(nn.Module):
    """An encoder Q(h_l | h_{l-1}) and a decoder P(h_{l-1} | h_l).

    Args:
        encoder: its family has the elements of h_l.
        decoder: its family has the elements of h_{l-1}.
    """

    def __init__(self, encoder: Conditional, decoder: Conditional) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    @property
    def below(self) -> int:
        """Elements of h_{l-1}."""
        return self.decoder.family.elements

    @property
    def above(self) -> int:
        """Elements of h_l."""
        return self.encoder.family.elements

    @property
    def elementwise(self) -> bool:
        """Whether each element of h_l is made of the same element of h_{l-1} alone."""
        return isinstance(self.encoder.net, Identity)


class Path(NamedTuple):
    """A path h_0 = x, h_1, …, h_L, and the laws that it was drawn from."""

    h: tuple[Tensor, ...]
    laws: tuple[Product, ...]

    @property
    def code(self) -> Tensor:
        """h_L."""
        return self.h[-1]

    @property
    def x(self) -> Tensor:
        """h_0."""
        return self.h[0]


def joint_x(paths: Mapping[str, Path]) -> Elements:
    """The data of all modalities side by side."""
    return torch.cat([path.x for path in paths.values()], -1)


def joint_code(paths: Mapping[str, Path]) -> Elements:
    """The codes of all modalities side by side."""
    codes = [path.code for path in paths.values()]
    return codes[0] if len(codes) == 1 else torch.cat(codes, -1)


class Stack(nn.Module):
    """Layers from the data x upward; without any, the code is the data itself.

    Args:
        layers: each layer's decoder has as many elements as the encoder below it.
        elements: the size of x; needed only where there is no layer.

    Raises:
        ValueError: two neighbours do not fit, or nothing says the size of x.

    >>> stack = Stack.build(Bernoulli(6), hidden=(4, 2))
    >>> [h.shape[-1] for h in stack.encode(torch.ones(5, 6), draws=3).h]
    [6, 4, 2]
    """

    def __init__(self, layers: Sequence[Layer] = (), elements: int | None = None) -> None:
        super().__init__()
        for number, (low, high) in enumerate(pairwise(layers), start=1):
            if low.above != high.below:
                raise ValueError(
                    f"layer {number} gives {low.above} elements, but the decoder of layer "
                    f"{number + 1} has {high.below}; they must be the same"
                )
        if not layers and elements is None:
            raise ValueError("a stack without layers needs `elements`, the size of x")
        if layers and elements not in (None, layers[0].below):
            raise ValueError(f"layer 1 decodes to {layers[0].below} elements, not {elements}")
        self.layers = nn.ModuleList(layers)
        self.elements = layers[0].below if layers else elements

    @staticmethod
    def build(
        visible: Family,
        hidden: Sequence[int] = (64, 32),
        latent: str | Sequence[str] = "gaussian",
        units: Units = (128,),
        activation: str = "tanh",
        skip: bool = False,
        dropout: float = 0.0,
        regress: bool = False,
    ) -> "Stack":
        """A stack of perceptrons or convolutions, its bottom encoder told what is missing.

        Args:
            visible: the family of x.
            hidden: the elements of h_1, …, h_L; none gives a stack without layers.
            latent: ``"gaussian"``, ``"bernoulli"``, ``"categorical"`` (groups of 10) or
                ``"autoregressive"``, one for all layers or one for each.
            units: hidden units of every net, or the convolutions of the bottom ones.
            activation: as for ``MLP``.
            skip: as for ``MLP``.
            dropout: as for ``MLP``.
            regress: whether the bottom encoder reads, in place of what is missing, a regression of
                it on what was seen: ``Regressed``.

        Raises:
            ValueError: an unknown latent family, another number of them than of layers, or
                convolutions of other images, or without a layer.
        """
        if isinstance(units, Convolutions) and not hidden:
            raise ValueError(
                "convolutions stand between an image and its first layer, but hidden has no layer; "
                "give it a size, or take plain hidden units"
            )
        highs = _latents(hidden, latent, scale="net")
        lows = [visible, *_latents(hidden, latent, scale="learned")[:-1]]
        layers = []
        for low, high in zip(lows, highs, strict=False):
            masked = low is visible
            up, down = _nets(low, high, units, masked, activation, skip, dropout)
            reader = Regressed(up, low.elements) if regress and masked else up
            layers.append(Layer(Conditional(reader, high), Conditional(down, low)))
        return Stack(layers, elements=visible.elements)

    @property
    def code_elements(self) -> int:
        """Elements of h_L."""
        return self[-1].above if len(self.layers) else int(self.elements or 0)

    @property
    def elementwise(self) -> bool:
        """Whether an element of the code is seen where that of x is: without layers it is x."""
        return all(self[level].elementwise for level in range(len(self.layers)))

    def seen_below(self, seen: Seen | None) -> list[Seen | None]:
        """What is seen of what each layer reads: above one that mixes elements, all or nothing."""
        found = [seen]
        for level in range(len(self.layers)):
            found.append(found[-1] if self[level].elementwise else None)
        return found

    def __getitem__(self, level: int) -> Layer:
        layer = self.layers[level]
        if not isinstance(layer, Layer):
            raise TypeError(f"a stack is made of Layers, but holds {type(layer).__name__}")
        return layer

    def encode(
        self, x: Elements, seen: Seen | None = None, draws: int = 1, point: bool = False
    ) -> Path:
        """Paths drawn from Q(h_1, …, h_L | x_seen); every h_l is ``(draws, rows, elements)``.

        Their laws are Q(h_l | h_{l-1}). With ``point`` every h_l is its law's mode. No gradient is
        kept.
        """
        h: list[Tensor] = [x.expand(draws, *x.shape)]
        laws: list[Product] = []
        known = self.seen_below(seen)
        with torch.no_grad():
            for level in range(len(self.layers)):
                q = self[level].encoder(h[-1] if level else x, known[level])
                shape = () if level else (draws,)
                h.append(q.mode.expand(*shape, *q.mode.shape) if point else q.sample(shape))
                laws.append(q)
        return Path(tuple(h), tuple(laws))

    def decode(self, code: Elements, mean: bool = False, point: bool = False) -> Path:
        """Paths drawn downward from a code; their laws are P(h_{l-1} | h_l). No gradient is kept.

        With ``mean`` the last step gives E[x | h_1] in place of a draw; with ``point`` it does so
        too, and every step before it gives its law's mode.
        """
        h: list[Tensor] = [code]
        laws: list[Product] = []
        with torch.no_grad():
            for level in reversed(range(len(self.layers))):
                p = self[level].decoder(h[0])
                mode = p.mode if point and level else None
                expected = p.mean if (mean or point) and not level else mode
                h.insert(0, p.sample() if expected is None else expected)
                laws.insert(0, p)
        return Path(tuple(h), tuple(laws))

    def log_q(self, path: Path, seen: Seen | None = None) -> PerRow:
        """Log Q(h_1, …, h_L | x_seen) of a path drawn by ``encode``, in nats."""
        known = self.seen_below(seen)[1:]
        draws = zip(path.laws, path.h[1:], known, strict=True)
        return _total([q.log_prob(h, mask) for q, h, mask in draws], path.code)

    def log_p(self, path: Path, seen: Seen | None = None) -> PerRow:
        """Log P(x_seen, h_1, …, h_{L-1} | h_L) of a path, in nats."""
        known = self.seen_below(seen)
        terms = [
            self[level].decoder(above).log_prob(below, known[level])
            for level, (below, above) in enumerate(zip(path.h, path.h[1:], strict=False))
        ]
        return _total(terms, path.code)


def is_discrete(family: Family) -> bool:
    """Whether the family's values are zeros and ones."""
    return isinstance(family(torch.zeros(family.outputs)), Discrete)


def _nets(
    low: Family,
    high: Family,
    units: Units,
    bottom: bool,
    activation: str,
    skip: bool,
    dropout: float,
) -> tuple[nn.Module, nn.Module]:
    """From the elements of one level to the outputs of the next, and back."""
    if isinstance(units, Convolutions) and bottom:
        if units.elements != low.elements:
            raise ValueError(
                f"convolutions of images of shape {tuple(units.shape)} read {units.elements} "
                f"values, but a row has {low.elements}; give the shape of the data's rows, "
                f"by modality where there are several, or take plain hidden units"
            )
        down = ConvolutionalDecoder(
            high.elements, units, low.outputs, activation, skip, dropout=dropout
        )
        return ConvolutionalEncoder(units, high.outputs, activation, skip, True, dropout), down
    wide = units.above if isinstance(units, Convolutions) else units
    up = MLP(low.elements, high.outputs, wide, activation, skip, bottom, dropout)
    return up, MLP(high.elements, low.outputs, wide, activation, skip, dropout=dropout)


def _latents(hidden: Sequence[int], latent: str | Sequence[str], scale: str) -> list[Family]:
    names = [latent] * len(hidden) if isinstance(latent, str) else list(latent)
    if len(names) != len(hidden):
        raise ValueError(
            f"latent names {len(names)} families, but there are {len(hidden)} hidden layers; "
            f"give one name, or one for each layer"
        )
    return [_latent(elements, name, scale) for elements, name in zip(hidden, names, strict=True)]


def _latent(elements: int, name: str, scale: str) -> Family:
    if name == "gaussian":
        return Gaussian(elements, scale)
    if name == "bernoulli":
        return Bernoulli(elements)
    if name == "autoregressive":
        return Autoregressive(elements)
    if name == "categorical":
        if elements % CATEGORIES:
            raise ValueError(
                f"a categorical layer is made of groups of {CATEGORIES} elements, but has "
                f"{elements}; give a multiple of {CATEGORIES}"
            )
        return Categorical((CATEGORIES,) * (elements // CATEGORIES))
    raise ValueError(f"latent must be one of {', '.join(LATENTS)}, but is {name!r}")


def _total(terms: list[Tensor], code: Tensor) -> Tensor:
    return torch.stack(terms).sum(0) if terms else code.new_zeros(code.shape[:-1])

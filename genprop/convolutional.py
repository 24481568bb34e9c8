"""Convolutional nets between images and codes."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from genprop.nets import ACTIVATIONS, MLP, told
from genprop.shapes import Elements, Outputs

WRITTEN = re.compile(r"\d+(x\d+){1,2}(:\d+(,\d+)*)?")


@dataclass(frozen=True)
class Convolutions:
    """Nets of a modality whose rows are images: strided convolutions up, transposed ones down.

    They stand between the image and h_1; the layers above have perceptrons.

    Attributes:
        shape: of an image, ``(height, width)`` or ``(channels, height, width)``, whose values lie
            in a row in that order.
        channels: of each convolution, from the image upward; each halves height and width.
        units: hidden units between the convolutions and the code.
        above: hidden units of the nets of the layers above.

    Raises:
        ValueError: a shape of another kind, no channel, or a size that is not positive.

    >>> Convolutions((28, 28), channels=(32, 64)).sides
    [(28, 28), (14, 14), (7, 7)]
    """

    shape: Sequence[int]
    channels: Sequence[int] = (32, 64)
    units: Sequence[int] = ()
    above: Sequence[int] = (128,)

    def __post_init__(self) -> None:
        if len(self.shape) not in (2, 3) or min(*self.shape, *self.units, *self.above) < 1:
            raise ValueError(
                f"convolutions need an image's shape, (height, width) or (channels, height, width),"
                f" and positive sizes, but got shape={self.shape}, units={self.units}, "
                f"above={self.above}"
            )
        if not self.channels or min(self.channels) < 1:
            raise ValueError(
                f"convolutions need at least one positive number of channels, but got "
                f"{self.channels}; for none take plain hidden units"
            )

    @staticmethod
    def read(text: str) -> "Convolutions":
        """The nets that are written as ``"28x28"`` or, with channels, ``"28x28:32,64"``.

        >>> Convolutions.read("3x8x8:16").channels
        (16,)
        """
        if not WRITTEN.fullmatch(text):
            raise ValueError(
                f"convolutions are written as an image's shape and their channels, such as "
                f"'28x28:32,64', but this is {text!r}"
            )
        shape, _, channels = text.partition(":")
        sizes = tuple(int(n) for n in shape.split("x"))
        return Convolutions(sizes, tuple(int(n) for n in (channels or "32,64").split(",")))

    @property
    def image(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = (1, *self.shape)[-3:]
        return channels, height, width

    @property
    def elements(self) -> int:
        """Values of an image."""
        return math.prod(self.shape)

    @property
    def sides(self) -> list[tuple[int, int]]:
        """Height and width of the image, and after each convolution."""
        halves = range(len(self.channels) + 1)
        return [(_halved(self.image[1], n), _halved(self.image[2], n)) for n in halves]

    @property
    def features(self) -> tuple[int, int, int]:
        """Channels, height and width after the last convolution."""
        return self.channels[-1], *self.sides[-1]

    def planes(self, outputs: int) -> int:
        """How many channels hold so many outputs, which are whole images one after another.

        Raises:
            ValueError: they are no whole images.
        """
        if outputs % self.elements:
            raise ValueError(
                f"convolutions of images of shape {tuple(self.shape)} give {self.elements} numbers "
                f"or a multiple, but the family takes {outputs}; take a family with as many "
                f"parameters for every value, such as Gaussian, or plain hidden units"
            )
        return self.image[0] * outputs // self.elements


class ConvolutionalEncoder(nn.Module):
    r"""net(x) = MLP(a(C_n * … a(C_1 * x + V * m + b_1) …)), convolutions of 3 x 3 in steps of two.

    m is 1 where a value is missing and 0 where it was seen; V starts at zero and takes no part, nor
    any time, where nothing is missing.

    Args:
        images: what is read, by which convolutions.
        outputs: numbers returned for each row.
        activation: as for ``MLP``.
        skip: as for ``MLP``, beside the hidden units only.
        masked: whether the net may be told what is missing.
        dropout: as for ``MLP``, of the hidden units.

    Raises:
        ValueError: as ``MLP``.

    References:
        LeCun et al., 1989, Backpropagation applied to handwritten zip code recognition.

    >>> import torch
    >>> net = ConvolutionalEncoder(Convolutions((9, 8), channels=(4, 6)), 5)
    >>> net(torch.zeros(3, 7, 72)).shape
    torch.Size([3, 7, 5])
    """

    def __init__(
        self,
        images: Convolutions,
        outputs: int,
        activation: str = "tanh",
        skip: bool = False,
        masked: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        features, hidden = math.prod(images.features), images.units
        self.head = MLP(features, outputs, hidden, activation, skip, dropout=dropout)
        self.images, self.inputs, self.outputs = images, images.elements, outputs
        self.activation, self.skip, self.masked, self.dropout = activation, skip, masked, dropout
        widths = (images.image[0], *images.channels)
        first, *others = (nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(widths))
        self.first = first
        self.missing = nn.Conv2d(widths[0], widths[1], 3, 2, 1, bias=False) if masked else None
        if self.missing is not None:
            nn.init.zeros_(self.missing.weight)
        act = ACTIVATIONS[activation]
        self.rest = nn.Sequential(act(), *(part for each in others for part in (each, act())))

    def forward(self, x: Elements, missing: Elements | None = None) -> Outputs:
        """The outputs for x; ``missing`` is 1.0 where an element of x was not observed."""
        first = _over(self.first, x.unflatten(-1, self.images.image))
        if missing is not None:
            first = first + _over(told(self.missing), missing.unflatten(-1, self.images.image))
        y: Tensor = self.head(_over(self.rest, first).flatten(-3))
        return y


class ConvolutionalDecoder(nn.Module):
    r"""net(h) = T_1 * a(… T_n * a(MLP(h)) …) + b, transposed convolutions of 4 x 4 in steps of two.

    Windows of four in steps of two overlap evenly, so that they draw no checkerboard. Of a size
    that is odd the last row or column is left out. The outputs are whole images one after another,
    such as all means and then all scales, as families have them.

    Args:
        inputs: elements of h.
        images: what is to be given, by which convolutions, in the order of the encoder.
        outputs: numbers returned for each row, a multiple of an image's values.
        activation: as for ``MLP``.
        skip: as for ``MLP``, beside the hidden units only.
        dropout: as for ``MLP``, of the hidden units.

    Raises:
        ValueError: as ``MLP``, or the outputs are no whole images.

    References:
        Zeiler et al., 2010, Deconvolutional networks. Odena, Dumoulin, Olah, 2016, Deconvolution
        and checkerboard artifacts.

    >>> import torch
    >>> net = ConvolutionalDecoder(2, Convolutions((9, 8), channels=(4, 6)), outputs=144)
    >>> net(torch.zeros(3, 7, 2)).shape
    torch.Size([3, 7, 144])
    """

    def __init__(
        self,
        inputs: int,
        images: Convolutions,
        outputs: int,
        activation: str = "tanh",
        skip: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = (*reversed(images.channels), images.planes(outputs))
        features, hidden = math.prod(images.features), images.units
        self.head = MLP(inputs, features, hidden, activation, skip, dropout=dropout)
        self.inputs, self.images, self.outputs = inputs, images, outputs
        self.activation, self.skip, self.dropout = activation, skip, dropout
        self.act = ACTIVATIONS[activation]()
        self.steps = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in pairwise(widths))

    def forward(self, h: Elements) -> Outputs:
        """The outputs for h."""
        y: Tensor = self.head(h).unflatten(-1, self.images.features)
        for step, (height, width) in zip(self.steps, self.images.sides[-2::-1], strict=True):
            y = _over(step, self.act(y))[..., :height, :width]
        return y.flatten(-3)


def _halved(side: int, times: int) -> int:
    return math.ceil(side / (1 << times))


def _over(net: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The net of images ``(…, channels, height, width)``, whatever stands in front."""
    y = net(images.reshape(-1, *images.shape[-3:]))
    return y.reshape(*images.shape[:-3], *y.shape[1:])

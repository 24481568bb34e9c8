"""Nets that read pixels in order: the logits of each given all that is known before it."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class InOrder(nn.Module):
    r"""Logits of the unknown pixels of an image, each given the known ones and those before it.

    In the order of reading, row by row from above. With ``Conditional(net, Bernoulli(pixels))`` the
    log-probability of the whole is Σ_j log P(x_j | x_<j, known), which is exact. Of pixel j the net
    reads, each by units of its own: the known pixels; the unknown ones of all rows above; and what
    is within ``reach`` of it, of the unknown only what comes before.

    Args:
        known: True where a pixel is known, ``(height, width)``.
        units: of what reads the rows above.
        channels: numbers by which these parts add up at a pixel.
        reach: pixels to each side.
        wide: units of each of the two layers that read the known pixels.

    >>> known = torch.tensor([[True, True], [False, False]])
    >>> InOrder(known, 3, 2, 1, 4)(torch.zeros(5, 4)).shape
    torch.Size([5, 2])
    """

    known: Tensor
    places: Tensor
    inside: Tensor
    rest: Tensor
    taps: Tensor
    cells: Tensor

    def __init__(
        self, known: Tensor, units: int = 128, channels: int = 32, reach: int = 5, wide: int = 400
    ) -> None:
        super().__init__()
        self.height, self.width = known.shape
        rest = (~known).flatten().nonzero()[:, 0]
        top, left = int(rest.min()) // self.width, int((rest % self.width).min())
        self.rows = slice(top, int(rest.max()) // self.width + 1)
        self.across = self.width - left
        self.register_buffer("inside", (~known).flatten())
        self.register_buffer("places", known.flatten().nonzero()[:, 0])
        self.register_buffer("rest", rest)
        self.register_buffer("taps", _taps(known, reach))
        cells = (rest // self.width - top) * self.across + rest % self.width - left
        self.register_buffer("cells", cells)
        count = self.rows.stop - top
        self.reader = nn.Sequential(
            nn.Linear(len(self.places), wide), nn.ReLU(), nn.Linear(wide, wide), nn.ReLU()
        )
        self.base, self.start = nn.Linear(wide, len(rest)), nn.Linear(wide, units)
        self.row = nn.Parameter(torch.randn(count, self.width, units) / (2 * math.sqrt(self.width)))
        self.row_bias = nn.Parameter(torch.zeros(count, units))
        self.far = nn.Linear(units, self.across * channels)
        self.near = nn.Linear(self.taps.shape[1], channels, bias=False)
        self.place = nn.Parameter(torch.zeros(len(rest), channels))
        self.mix = nn.Sequential(
            nn.ReLU(), nn.Linear(channels, 2 * channels), nn.ReLU(), nn.Linear(2 * channels, 1)
        )
        nn.init.zeros_(self.base.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The logits ``(rows, unknown)`` of whole images ``(rows, pixels)``, in order."""
        read = self.reader(x[:, self.places])
        said = torch.einsum("nrw,rwu->nru", self._unknown(x), self.row).cumsum(1)
        far = self._far(functional.pad(said[:, :-1], (0, 0, 1, 0)), self.row_bias, read)
        near = self.near(functional.pad(x, (0, 1))[:, self.taps])
        mixed = self.mix(near + far.flatten(1, 2)[:, self.cells] + self.place)[..., 0]
        logits: Tensor = mixed + self.base(read)
        return logits

    @torch.no_grad()
    def draw(self, x: Tensor) -> Tensor:
        """The images with their unknown pixels drawn, one after the other."""
        x = functional.pad(x * ~self.inside, (0, 1))
        read = self.reader(x[:, self.places])
        base, said = self.base(read), x.new_zeros(len(x), self.row.shape[2])
        for row, bias in enumerate(self.row_bias):
            far = self._far(said[:, None], bias, read)[:, 0]
            here = (self.cells // self.across == row).nonzero()[:, 0]
            for j in here.tolist():
                z = self.near(x[:, self.taps[j]]) + far[:, self.cells[j] % self.across]
                logit = self.mix(z + self.place[j])[:, 0] + base[:, j]
                x[:, self.rest[j]] = torch.bernoulli(logit.sigmoid())
            said = said + self._unknown(x[:, :-1])[:, row] @ self.row[row]
        return x[:, :-1]

    def _unknown(self, x: Tensor) -> Tensor:
        """The rows that hold unknown pixels, the known ones of them zero."""
        images: Tensor = (x * self.inside).reshape(-1, self.height, self.width)
        return images[:, self.rows]

    def _far(self, said: Tensor, bias: Tensor, read: Tensor) -> Tensor:
        """What the rows above say of each column, ``(rows, lines, columns, channels)``."""
        hidden = (said + bias + self.start(read)[:, None]).relu()
        far: Tensor = self.far(hidden)
        return far.reshape(*far.shape[:-1], self.across, -1)


def _taps(known: Tensor, reach: int) -> Tensor:
    """Of each unknown pixel the numbers of those around it; of one not to be read their count."""
    height, width = known.shape
    rest = (~known).flatten().nonzero()
    step = torch.arange(-reach, reach + 1)
    rows = rest // width + step.repeat_interleave(len(step))
    columns = rest % width + step.repeat(len(step))
    at = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    readable = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return torch.where(readable & (known.flatten()[at] | (at < rest)), at, height * width)

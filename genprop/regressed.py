"""What is missing, regressed on what was seen: what an encoder reads in its place."""

import torch
from torch import Tensor, nn

from genprop.shapes import Elements, Outputs, Seen

FACTORS, ROUNDS = 32, 30
CELLS, FEWEST = 100_000, 500  # that are learned from; rows
RIDGE = 10.0  # rows that say that nothing depends on anything
LEAST_NOISE = 1e-3  # of a variance of one


class Regressed(nn.Module):
    r"""net(E[x | x_seen], missing) under a linear factor model of the rows.

    With x = μ + W h + ε, h ~ N(0, I) and ε_j ~ N(0, ψ_j), what is missing has the expectation::

        E[x_m | x_s] = μ_m + W_m (I + W_sᵀ Ψ_s⁻¹ W_s)⁻¹ W_sᵀ Ψ_s⁻¹ (x_s - μ_s)

    so that a net meets nearly the same row whatever the pattern of holes is, where zeros in their
    place would leave every pattern to be learned by itself. In training it is a draw from
    P(x_m | x_s) in place of the mean, so that the net learns how far to trust it. Until ``learn``
    has seen data W and μ are zero. They are no parameters; no rule reaches them.

    Args:
        net: of ``elements`` inputs, told what is missing.
        elements: of x.

    References:
        Ilin, Raiko, 2010, Practical approaches to principal component analysis in the presence of
        missing values (EM with a ridge). Rubin, Thayer, 1982, EM algorithms for ML factor analysis.

    >>> from genprop.nets import MLP
    >>> net = Regressed(MLP(2, 2, units=(), masked=True), 2)
    >>> column = torch.linspace(-1.0, 1.0, 500)[:, None]
    >>> net.learn(column.expand(500, 2), torch.ones(500, 2, dtype=torch.bool))
    >>> net.filled(torch.tensor([[0.5, 0.0]]), torch.tensor([[0.0, 1.0]])).round(decimals=1)
    tensor([[0.5000, 0.5000]])
    """

    loc: Tensor
    weight: Tensor
    noise: Tensor

    def __init__(self, net: nn.Module, elements: int) -> None:
        super().__init__()
        self.net, self.elements = net, elements
        self.register_buffer("loc", torch.zeros(elements))
        self.register_buffer("weight", torch.zeros(elements, min(elements, FACTORS)))
        self.register_buffer("noise", torch.ones(elements))

    def forward(self, x: Elements, missing: Elements | None = None) -> Outputs:
        """The net's outputs; ``missing`` is 1.0 where an element of x was not observed."""
        if missing is None:
            plain: Tensor = self.net(x)
            return plain
        # systems of equations need more digits than mixed precision leaves them
        with torch.autocast(x.device.type, enabled=False):
            whole = self.filled(x, missing, drawn=self.training)
        y: Tensor = self.net(whole, missing)
        return y

    def filled(self, x: Elements, missing: Elements, drawn: bool = False) -> Elements:
        """The row with E[x | x_seen], or with a draw, where an element is missing."""
        precision = (1 - missing) / self.noise
        root, half = halfway(self.weight, precision, precision * (x - self.loc))
        noise: Tensor | float = 0.0
        if drawn:
            half = half + torch.randn_like(half)
            noise = self.noise.sqrt() * torch.randn_like(x)
        h = torch.linalg.solve_triangular(root.mT, half, upper=True).squeeze(-1)
        return torch.where(missing > 0, self.loc + h @ self.weight.mT + noise, x)

    @torch.no_grad()
    def learn(self, x: Elements, seen: Seen) -> None:
        """Fits μ, W and Ψ to rows with holes by expectation maximisation.

        Every column is taken in units of what was seen of it. W has a ridge, as if so many more
        rows had shown no dependence.

        Args:
            x: rows, of which every n-th is read, so that these have about 100,000 cells, and are no
                fewer than 500.
            seen: True where an element was observed.
        """
        step = max(1, len(x) // max(FEWEST, CELLS // self.elements))
        mask = seen[::step].double()
        count = mask.sum(0)
        rows = torch.where(seen, x, 0)[::step].double()
        loc = rows.sum(0) / count.clamp_min(1)
        scale = (((rows - loc) * mask).square().sum(0) / count.clamp_min(1)).sqrt()
        scale = torch.where(scale > 0, scale, 1)
        mean, weight, noise = factors((rows - loc) / scale * mask, mask, self.weight.shape[1])
        self.loc.copy_(loc + scale * mean)
        self.weight.copy_(scale[:, None] * weight)
        self.noise.copy_(scale.square() * noise)


def halfway(weight: Tensor, precision: Tensor, pull: Tensor) -> tuple[Tensor, Tensor]:
    """The lower root R of the precision of h given x_seen, and R⁻¹ Wᵀ pull.

    R⁻ᵀ times that is the mean of h; with ε ~ N(0, I) added to it first, a draw.

    Args:
        weight: W, ``(elements, factors)``.
        precision: 1/ψ_j where x_j is seen, else 0, ``(rows, elements)``.
        pull: these times x - μ, ``(…, rows, elements)``.
    """
    width = weight.shape[1]
    squares = (weight[:, :, None] * weight[:, None, :]).flatten(1)
    inverse = (precision @ squares).unflatten(-1, (width, width))
    root = torch.linalg.cholesky(inverse + torch.eye(width).to(inverse))
    half = torch.linalg.solve_triangular(root, (pull @ weight)[..., None], upper=False)
    return root, half


def factors(x: Tensor, mask: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """μ, W and ψ of standardised rows by expectation maximisation, from principal components.

    Args:
        x: rows, zero where they are not seen.
        mask: 1.0 where they are.
        width: columns of W.
    """
    count = mask.sum(0)
    values, vectors = torch.linalg.eigh(x.mT @ x / (mask.mT @ mask).clamp_min(1))
    values, vectors = values[-width:].clamp_min(LEAST_NOISE), vectors[:, -width:]
    weight, mean = vectors * values.sqrt(), torch.zeros_like(count)
    noise = (1 - weight.square().sum(1)).clamp_min(0.1)
    ridge = RIDGE * torch.eye(width, dtype=x.dtype, device=x.device)
    for _ in range(ROUNDS):
        apart = (x - mean) * mask
        root, half = halfway(weight, mask / noise, apart / noise)
        covariance = torch.cholesky_inverse(root)
        h = torch.linalg.solve_triangular(root.mT, half, upper=True).squeeze(-1)
        second = covariance + h[:, :, None] * h[:, None, :]
        around = (mask.mT @ second.flatten(1)).unflatten(1, (width, width))
        weight = torch.linalg.solve(around + ridge, apart.mT @ h)
        mean = ((x - h @ weight.mT) * mask).sum(0) / (count + 1)
        error = ((x - mean - h @ weight.mT) * mask).square().sum(0)
        spread = (mask.mT @ covariance.flatten(1)).unflatten(1, (width, width))
        error = error + torch.einsum("jkl,jk,jl->j", spread, weight, weight)
        noise = ((error + 0.1) / (count + 0.1)).clamp_min(LEAST_NOISE)
    return mean, weight, noise

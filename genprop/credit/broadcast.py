"""Score broadcast: layers learn to be uncorrelated with the output's score."""

from collections.abc import Iterator

import torch
from torch import Tensor

from genprop.credit.network import CreditNetwork
from genprop.credit.rule import CreditRule, climb, inner, output_term
from genprop.rules.rule import Term


class ScoreBroadcast(CreditRule):
    r"""The output's score, broadcast to every layer through what it correlates with there.

    Formula: where the output is as good as it can be, its score s = ∂C/∂o has mean zero given x,
    hence E[h sᵀ] = 0 for every layer. With R_l ← m R_l + (1 - m) mean(h_l sᵀ), block l descends
    ½‖R_l‖² through its own h_l, the mean of ⟨h_l, sg R_l s⟩ over rows (the factor 1 - m left out).
    Against collapse also ``power`` · Σ_i ½(mean h_i² - P)² and -``entropy`` · ½ log det(Σ_l + εI),
    Σ_l averaged as R_l is. For squared cost s is the error (error broadcast and decorrelation);
    for cross-entropy softmax(o) - y (score broadcast). R_l starts at zero or, with ``start``, as
    noise: then it is direct feedback alignment at first, for as long as the memory lasts. That
    matters: s correlates with a layer as the output weights will turn *against* it, so that what
    lowers R_l alone, far from the optimum, works against what back-propagation asks for.

    Local: each term reaches one block: presynaptic value × postsynaptic derivative × broadcast
    scalar. Transported: no weight. Cost: one forward pass, two products of the layer with the
    score, and local derivatives, about 2 to 3 forward passes; with entropy a solve of the layer's
    size. Memory: all layers' values, R_l of the layer's size × outputs, Σ_l. Source: Erdogan and
    others, error broadcast and decorrelation; Uzun and others, 2026, arXiv 2605.30638, whose
    abstract was at hand; its own settings are not known.

    Args:
        network: whose shapes R and Σ take.
        memory: m, of the averages.
        power: weight of the power term.
        target_power: P.
        entropy: weight of the entropy term.
        ridge: ε.
        start: standard deviation of R's entries before the first batch.

    Raises:
        ValueError: a number that makes no sense.

    >>> ScoreBroadcast(CreditNetwork.build(4, (3,), 2)).correlation(1).shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        network: CreditNetwork,
        memory: float = 0.9,
        power: float = 0.0,
        target_power: float = 0.3,
        entropy: float = 0.0,
        ridge: float = 0.01,
        start: float = 0.0,
    ) -> None:
        super().__init__()
        if (
            not 0 <= memory < 1
            or min(power, entropy, start) < 0
            or not min(target_power, ridge) > 0
        ):
            raise ValueError(
                "memory lies in [0, 1), power, entropy and start are not negative, target_power "
                f"and ridge positive; got {memory}, {power}, {entropy}, {start}, {target_power} "
                f"and {ridge}"
            )
        self.memory, self.power, self.target_power = memory, power, target_power
        self.entropy, self.ridge, self.start = entropy, ridge, start
        for number, block in enumerate(network.layers[:-1], 1):
            size = torch.Size(block.out_shape).numel()
            noise = torch.randn(size, network.outputs, dtype=block.weight.dtype)
            first = (start * noise).to(block.weight.device)
            self.register_buffer(f"correlation_{number}", first)
            if entropy:
                eye = torch.eye(size, dtype=block.weight.dtype, device=block.weight.device)
                self.register_buffer(f"covariance_{number}", eye)

    def correlation(self, layer: int) -> Tensor:
        """R_l, ``(size of the layer, outputs)``."""
        return self.get_buffer(f"correlation_{layer}")

    def forward(self, network: CreditNetwork, x: Tensor, y: Tensor) -> Iterator[Term]:
        """A term a layer, the output's first."""
        path, values = climb(network, x)
        yield output_term(network, values[-1], y)
        score = network.score(path[-1], y)
        for number, value in enumerate(values[:-1], 1):
            parts = self._parts(number, value.flatten(1), score)
            yield Term(f"layer.{number}", parts, {})

    def check(self, network: CreditNetwork) -> None:
        sizes = [(torch.Size(b.out_shape).numel(), network.outputs) for b in network.layers[:-1]]
        kept = [tuple(t.shape) for name, t in self.named_buffers() if name.startswith("corr")]
        if kept != sizes:
            raise ValueError("this rule was made for another network; make it anew for this one")

    def _parts(self, number: int, h: Tensor, score: Tensor) -> dict[str, Tensor]:
        name, still = f"layer.{number}", h.detach()
        correlation = self._follow(f"correlation_{number}", still.mT @ score / len(h))
        parts = {f"{name}.decorrelation": inner(h, score @ correlation.mT)}
        if self.power:
            excess = h.square().mean(0) - self.target_power
            parts[f"{name}.power"] = 0.5 * self.power * excess.square().sum()
        if self.entropy:
            covariance = self._follow(f"covariance_{number}", still.mT @ still / len(h))
            ridge = self.ridge * torch.eye(len(covariance), dtype=h.dtype, device=h.device)
            pull = torch.linalg.solve(covariance + ridge, still.mT).mT
            parts[f"{name}.entropy"] = -self.entropy * inner(h, pull)
        return parts

    @torch.no_grad()
    def _follow(self, name: str, now: Tensor) -> Tensor:
        """The running average after this batch."""
        kept = self.get_buffer(name)
        kept.mul_(self.memory).add_(now, alpha=1 - self.memory)
        return kept.clone()

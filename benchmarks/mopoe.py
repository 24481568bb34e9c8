"""MultiVae's mixture of products of experts, its 63 products of six views in one step.

MultiVae takes each subset of views by itself and copies all that came before. Everything here is
what it computes (tests/test_benchmark_multimodal.py), at a fraction of the time.
"""

from typing import Any

import torch
from multivae.models import MoPoE
from torch import Tensor

SMALLEST = 1e-8  # that is added to variances, as there


class FastMoPoE(MoPoE):  # type: ignore[misc]
    """MoPoE, computed for all subsets at once (Sutter, Daunhawer and Vogt, 2021)."""

    def inference(self, inputs: Any, **_: Any) -> dict[str, Any]:
        """The product of each subset's experts, and of each row one that its views can tell."""
        found = self.modality_encode(inputs)
        views = list(self.encoders)
        subsets = {name: mods for name, mods in self.subsets.items() if name}
        member = torch.tensor([[view in mods for view in views] for mods in subsets.values()])
        means = torch.stack([found[view].embedding for view in views])
        precisions = 1 / (
            torch.stack([found[view].log_covariance for view in views]).exp() + SMALLEST
        )
        share = member.to(means)
        prior = member.all(1).to(means)[:, None, None] / (1 + SMALLEST)
        total = torch.einsum("sv,vnd->snd", share, precisions) + prior
        mus = torch.einsum("sv,vnd->snd", share, precisions * means) / total
        log_vars = (1 / total).log()
        weights, which = _chosen(member, views, inputs, mus.shape[1])
        rows = torch.arange(mus.shape[1])
        return {
            "modalities": found,
            "mus": mus,
            "logvars": log_vars,
            "weights": weights,
            "joint": [mus[which, rows], log_vars[which, rows]],
            "subsets": {
                name: list(pair) for name, *pair in zip(subsets, mus, log_vars, strict=True)
            },
        }

    def calc_joint_divergence(
        self, mus: Tensor, logvars: Tensor, weights: Tensor
    ) -> dict[str, Tensor]:
        """KL(mixture‖N(0, I)), bounded by the mean of its products' divergences."""
        each = -0.5 * (1 - logvars.exp() - mus.square() + logvars).sum(-1)
        return {"joint_divergence": (weights * each).sum(0).mean()}


def _chosen(member: Tensor, views: list[str], inputs: Any, rows: int) -> tuple[Tensor, Tensor]:
    """Weights ``(subsets, rows)``, and the subset of each row: in turn, or by chance with holes."""
    if not hasattr(inputs, "masks"):
        each = int(rows / len(member))
        in_turn = torch.arange(rows) // each if each else torch.full((rows,), len(member) - 1)
        even = torch.full((len(member), rows), 1 / len(member))
        return even, in_turn.clamp_max(len(member) - 1)
    seen = torch.stack([inputs.masks[view] for view in views])
    told = ~(member[:, :, None] & ~seen).any(1)
    weights = told / told.sum(0)
    return weights, torch.multinomial(weights.T, 1, replacement=True)[:, 0]

"""P(x) of affine layers with Gaussian noise, in closed form."""

import torch
from torch import Tensor, nn

from genprop.conditional import Conditional, Gaussian
from genprop.distributions import IndependentNormal
from genprop.mixture import MixtureNormal
from genprop.model import Model
from genprop.multivariate import JointNormal
from genprop.nets import MLP
from genprop.prior import LawPrior, Prior
from genprop.stack import Stack

MOST_NUMBERS = 2**26  # of all covariances together
Gaussians = JointNormal | MixtureNormal
Affine = tuple[Tensor, Tensor, Tensor]
"""A, b and the covariance C of x = A h + b + noise."""


@torch.no_grad()
def gaussian_marginal(model: Model) -> Gaussians | None:
    r"""P(x) of all modalities side by side where it is Gaussian, or a mixture of Gaussians.

    With decoders N(A_l h_l + b_l, diag σ_l²) and codes from Σ_k π_k N(μ_k, Σ_k), every level is
    such a mixture too: of h_{l-1} the components have the means A_l μ_k + b_l and the covariances
    A_l Σ_k A_lᵀ + diag σ_l². In double precision.

    Args:
        model: any.

    Returns:
        The law, or None where a net is not affine, a scale depends on what is given, a family or
        the prior is not Gaussian, or there are more covariances than a memory should hold.

    >>> from genprop.priors.gaussian import GaussianPrior
    >>> stack = Stack.build(Gaussian(3), hidden=(2,), units=())
    >>> gaussian_marginal(Model(stack, GaussianPrior(2))).covariance.shape
    torch.Size([3, 3])
    """
    code, maps = _code_law(model.prior), [_chained(stack) for _, stack in model.named_stacks()]
    if code is None or None in maps:
        return None
    A, b, C = zip(*(each for each in maps if each is not None), strict=True)
    return _carried(code, (torch.block_diag(*A), torch.cat(b), torch.block_diag(*C)))


def _code_law(prior: Prior) -> Gaussians | None:
    if isinstance(prior, Model):
        return gaussian_marginal(prior)
    law = prior.law if isinstance(prior, LawPrior) else None
    if isinstance(law, MixtureNormal) and not law.batch_shape:
        return MixtureNormal(law.log_weights.double(), _joint(law.components))
    return _joint(law) if isinstance(law, IndependentNormal | JointNormal) else None


def _joint(law: IndependentNormal | JointNormal) -> JointNormal:
    if isinstance(law, JointNormal):
        return JointNormal(law.loc.double(), law.scale_tril.double())
    return JointNormal(law.loc.double(), torch.diag_embed(law.stddev.double()))


def _chained(stack: Stack) -> Affine | None:
    """From the code down to x."""
    like = next(stack.parameters(), torch.zeros(()))
    A = torch.eye(stack.code_elements, dtype=torch.float64, device=like.device)
    b, C = torch.zeros_like(A[0]), torch.zeros_like(A)
    for level in reversed(range(len(stack.layers))):
        step = _affine(stack[level].decoder)
        if step is None:
            return None
        A, b, C = step[0] @ A, step[0] @ b + step[1], step[0] @ C @ step[0].mT + step[2]
    return A, b, C


def _affine(decoder: Conditional) -> Affine | None:
    family, net = decoder.family, decoder.net
    if not isinstance(family, Gaussian) or family.scale == "net":
        return None
    if isinstance(net, MLP) and not net.units:
        linear, more = net.first, net.straight
    elif isinstance(net, nn.Linear):
        linear, more = net, None
    else:
        return None
    bias = linear.weight.new_zeros(len(linear.weight)) if linear.bias is None else linear.bias
    law = family(bias)
    A = linear.weight.double() + (0 if more is None else more.weight.double())
    return A, law.loc.double(), torch.diag(law.stddev.double().square())


def _carried(code: Gaussians, way: Affine) -> Gaussians | None:
    """The law of A h + b + noise."""
    components = code.components if isinstance(code, MixtureNormal) else code
    assert isinstance(components, JointNormal)
    A, b, C = way
    if components.batch_shape.numel() * len(b) ** 2 > MOST_NUMBERS:
        return None
    root = A @ components.scale_tril
    carried = JointNormal(components.loc @ A.mT + b, torch.linalg.cholesky(root @ root.mT + C))
    return MixtureNormal(code.log_weights, carried) if isinstance(code, MixtureNormal) else carried

"""Log P(x) without sampling, where a model admits it."""

import torch

from genprop.data import Batch
from genprop.likelihood.enumeration import countable, enumerated, numbers_a_row
from genprop.likelihood.estimate import Estimate, exact_estimate
from genprop.likelihood.linear import Gaussians, gaussian_marginal
from genprop.likelihood.parts import NUMBERS_AT_ONCE, in_parts
from genprop.model import Model
from genprop.posterior import Posterior
from genprop.prior import DensityPrior, LawPrior
from genprop.priors.denoising import DenoisingPrior
from genprop.shapes import PerRow


def exact(model: Model, batch: Batch) -> Estimate:
    """Log P(x_seen) without an error, by whichever of three ways the model admits.

    - Without layers, the density of the prior itself.
    - Where all layers are affine with Gaussian noise of fixed scales, under Gaussian codes or a
      mixture of them, the Gaussian (or mixture) that x then follows.
    - Where all hidden values are discrete and few, the sum over them.

    Args:
        model: the model.
        batch: the rows; of each only what is seen counts.

    Raises:
        ValueError: data that does not fit the model, or a model that admits none of these.

    >>> from genprop.conditional import Gaussian
    >>> from genprop.priors.gaussian import GaussianPrior
    >>> from genprop.stack import Stack
    >>> model = Model(Stack.build(Gaussian(3), hidden=(2,), units=()), GaussianPrior(2))
    >>> exact(model, Batch.of(torch.zeros(4, 3))).method
    'closed form'
    """
    model.check(batch)
    batch = batch.to(model.like.device, model.like.dtype)
    if not model.has_layers:
        return prior_density(model, batch)
    law = gaussian_marginal(model)
    if law is not None:
        return _closed_form(law, batch)
    if not countable(model):
        raise ValueError(
            "log P(x) of this model has no closed form, and its hidden values are real or too many "
            "to go through; use importance sampling or annealed importance sampling"
        )
    Posterior(model, batch, smooth=False)  # refuses sums that could only be estimated
    rows = NUMBERS_AT_ONCE // numbers_a_row(model)
    return in_parts(batch, rows, lambda part: _found(enumerated(model, part), "enumeration"))


def applies(model: Model, batch: Batch) -> bool:
    """Whether ``exact`` has an answer for these rows that is exact."""
    if not model.has_layers:
        return isinstance(model.summit, DensityPrior) and not _only_estimated(model, batch)
    if gaussian_marginal(model) is not None:
        return True
    if not countable(model):
        return False
    try:
        Posterior(model, batch, smooth=False)
    except ValueError:
        return False
    return True


@torch.no_grad()
def prior_density(model: Model, batch: Batch) -> Estimate:
    """Log P(x_seen) of a model without layers, the density of its prior.

    A denoising prior may estimate its divergence, whose error is told. Rows of which some prior
    only estimates the density, as a flow where cells are unseen, have NaN for an error.

    Raises:
        TypeError: the prior has no density.
    """
    prior = model.summit
    if not isinstance(prior, DensityPrior):
        raise TypeError(
            f"log P(x) of a model without layers is the density of its prior, but "
            f"{type(prior).__name__} has none; use another prior, as prior='denoising'"
        )
    code, seen = torch.cat(list(batch.x.values()), -1), model.code_seen(batch)
    if isinstance(prior, DenoisingPrior):
        value, error = prior.estimate(code, seen)
        found = _found(value, "the prior's density")
        found.std_error[:] = error.double().cpu().numpy()
        return found
    found = _found(prior.log_prob(code, seen), "the prior's density")
    if _only_estimated(model, batch) and seen is not None:
        found.std_error[(~seen).any(-1).cpu().numpy()] = float("nan")
    return found


def _found(log_prob: PerRow, method: str) -> Estimate:
    return exact_estimate(log_prob.double().cpu().numpy(), method)


def _only_estimated(model: Model, batch: Batch) -> bool:
    """Whether the prior's density of partly seen codes is an estimate."""
    whole = all(seen is None for seen in batch.seen.values())
    return not whole and not isinstance(model.summit, LawPrior | DenoisingPrior)


def _closed_form(law: Gaussians, batch: Batch) -> Estimate:
    def log_rows(part: Batch) -> Estimate:
        x = torch.cat([each.double() for each in part.x.values()], -1)
        whole = all(mask is None for mask in part.seen.values())
        seen = None if whole else torch.cat(list(part.masks().values()), -1)
        return _found(law.log_prob(x, seen), "closed form")

    return in_parts(batch, NUMBERS_AT_ONCE // law.event_shape[0] ** 2, log_rows)

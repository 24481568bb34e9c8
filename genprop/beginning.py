"""Codes that are learned under a Gaussian first, where other priors follow them to nothing."""

from dataclasses import replace

from genprop.codes import tell_prior
from genprop.data import Batch
from genprop.model import Model
from genprop.priors.gaussian import GaussianPrior
from genprop.rules.rule import Rule
from genprop.train import Row, Trainer

LATER = ("parzen", "denoising")  # by names of ``genprop.build.PRIORS``
SHARE = 3  # of the epochs one in so many


def _begins_under_gaussian(model: Model, prior: object) -> bool:
    """Whether the codes of several modalities, as yet unlearned, meet a prior of that name.

    Its kernels, or its noise, are as wide as the codes are uncertain. Of few rows and several codes
    both widen each other from the start, until no code says anything of its row or of the others.
    """
    return prior in LATER and not model.bare and len(model.sizes) > 1


def fit_by_prior(
    trainer: Trainer,
    model: Model,
    rule: Rule,
    data: Batch,
    validation: Batch | None,
    prior: object,
) -> list[Row]:
    """As ``Trainer.fit``; where that is better, the first third of the epochs under a Gaussian.

    Then the model's own prior takes its place. Interrupted before that, the model gets its prior
    as it is, one of training rows' codes with these.
    """
    first = trainer.epochs // SHARE
    if not first or not _begins_under_gaussian(model, prior):
        return trainer.fit(model, rule, data, validation)
    own = model.prior
    model.prior = GaussianPrior(own.elements, "full").to(model.like)
    try:
        early = replace(trainer, epochs=first, patience=None).fit(model, rule, data, validation)
    finally:
        model.prior = own.to(model.like)
    if len(early) < first:
        tell_prior(model, data.to(model.like.device, model.like.dtype))
        return early
    later = replace(trainer, epochs=trainer.epochs - first).fit(model, rule, data, validation)
    return early + [{**row, "epoch": row["epoch"] + first} for row in later]

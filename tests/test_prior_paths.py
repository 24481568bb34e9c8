"""Completions by paths of the prior: exact for any encoders, and taken where they find more."""

import math

import pytest
import torch
import zoo
from torch import Tensor

from genprop.conditional import Bernoulli
from genprop.data import Batch
from genprop.model import Model
from genprop.prior import Prior
from genprop.prior_paths import complete_by_prior, has_prior_paths
from genprop.priors.gaussian import GaussianPrior
from genprop.stack import Stack
from genprop.tables.filled import WAYS
from genprop.tables.imputation import How, fill

CONTINUOUS = [name for name, make in zoo.priors().items() if not make().discrete]


def two(prior: Prior) -> Model:
    """Two modalities, a code of one element each."""
    stacks = {"x": zoo.stack(Bernoulli(3), (1,)), "y": zoo.stack(Bernoulli(1), (1,))}
    return zoo.perturbed(Model(stacks, prior), 0.1)


def only_y(rows: int) -> Batch:
    x = {"x": torch.zeros(rows, 3), "y": (torch.arange(rows) % 2)[:, None].float()}
    return Batch.of(x, {"x": torch.zeros(rows, 3, dtype=torch.bool)})


def test_the_mean_weight_is_the_likelihood_of_what_is_seen() -> None:
    torch.manual_seed(0)
    model = zoo.linear_gaussian((4, 3, 2))
    law, seen = zoo.exact_marginal(model), torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1]]).bool()
    x = law.sample((2,))
    _, log_w = complete_by_prior(model, Batch.of(x, seen), 1, 50_000)
    found = log_w.logsumexp(0) - math.log(len(log_w))
    error = (log_w - found).exp().std(0) / len(log_w) ** 0.5  # of a mean of 1
    for row in range(2):
        part = seen[row]
        exact = torch.distributions.MultivariateNormal(
            law.loc[part], law.covariance_matrix[part][:, part]
        ).log_prob(x[row, part])
        assert abs(found[row] - exact) < 5 * error[row]


@pytest.mark.parametrize("prior", CONTINUOUS)
def test_under_every_prior_a_row_gets_the_same_draws_in_any_batch(prior: str) -> None:
    torch.manual_seed(1)
    model, batch = two(zoo.priors()[prior]()), only_y(9)
    how = How("prior", draws=4, samples=30, khat=False)
    whole = fill(model, batch, how, 0)
    for row in (0, 7):
        torch.manual_seed(row)
        alone = fill(model, batch.take(slice(row, row + 1)), how, 0)
        # of rows that hold the same the first is meant
        assert torch.equal(alone.x["x"][:, 0], whole.x["x"][:, row % 2])
    assert (whole.way == WAYS.index("prior")).all()


@pytest.mark.parametrize("name", ["two-modalities", "nested-two-modalities"])
def test_seen_cells_stay(name: str) -> None:
    model = zoo.models()[name]()
    batch = zoo.batch(model, holes=True)
    found = fill(model, batch, How("prior", draws=3, samples=20), 0)
    for modality, mask in batch.masks().items():
        assert torch.equal(
            found.x[modality][:, mask], batch.x[modality][mask].expand(3, -1).to(found.x[modality])
        )


def led_away(sure: float) -> Model:
    """A label and its picture under a joint code, which encoders told the label alone misplace."""
    torch.manual_seed(2)
    above = Stack.build(Bernoulli(4), (2,), units=(4,))
    model = Model(
        {"y": Stack(elements=1), "x": Stack(elements=3)},
        zoo.perturbed(Model(above, GaussianPrior(2)), 0.8),
    )
    with torch.no_grad():
        for last in list(above[0].encoder.net.parameters())[-1:]:
            last.copy_(torch.tensor([2.5, 2.5, sure, sure]))
    return model


def means(model: Model, method: str) -> tuple[Tensor, Tensor]:
    found = fill(model, only_y_first(), How(method, draws=2000, samples=4000, khat=False), 0)
    return found.x["x"].mean(0), found.way


def only_y_first() -> Batch:
    x = {"y": torch.tensor([[0.0], [1.0]]), "x": torch.zeros(2, 3)}
    return Batch.of(x, {"x": torch.zeros(2, 3, dtype=torch.bool)}).to("cpu", torch.double)


def test_auto_takes_the_priors_paths_where_encoders_miss_what_is_likely() -> None:
    model = led_away(sure=-3.0)
    expected, _ = means(model, "prior")
    found, way = means(model, "auto")
    assert (way == WAYS.index("prior")).all()
    # of 2,000 draws of zeros and ones, the difference of two means errs by 0.016 at most
    assert ((found - expected).abs() < 5 * 0.016).all()
    astray, _ = means(model, "sir")
    assert (astray - expected).abs().max() > 0.1


def test_a_modality_without_a_layer_has_no_paths_of_the_prior() -> None:
    model = zoo.with_raw_modality()
    assert not has_prior_paths(model)
    with pytest.raises(ValueError, match="a modality has no layer here"):
        fill(model, zoo.batch(model), How("prior"), 0)
    # and auto takes those of encoders
    assert (fill(model, zoo.batch(model, holes=True), How(samples=20), 0).way != 1).all()


def test_rows_of_which_some_paths_of_the_prior_count_need_no_chains() -> None:
    model = led_away(sure=-3.0)
    above = model.prior
    assert isinstance(above, Model)
    with torch.no_grad():  # a label that few codes have, and these always
        weight, bias = list(dict(above.named_stacks())["x"][0].decoder.parameters())[-2:]
        weight[0] *= 20.0
        bias[0] -= 40.0
    how = How("auto", draws=100, samples=200, khat=False)
    found = fill(model, only_y_first(), how, 0)
    assert 10 <= found.ess[1] < how.least_ess
    assert WAYS[int(found.way[1])] == "prior"

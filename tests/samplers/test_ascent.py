"""The most probable position of every row."""

import exact
import pytest
import torch
import zoo
from torch import Tensor

from genprop.data import Batch
from genprop.levels import discrete_levels
from genprop.model import Model
from genprop.posterior import Posterior
from genprop.priors.gaussian import GaussianPrior
from genprop.samplers.ascent import ascend, most_probable
from genprop.stack import Stack


def two_linear() -> Model:
    low, high = (zoo.linear_gaussian((3, 2), prior="standard") for _ in range(2))
    stacks = {"low": low.stacks["x"], "high": high.stacks["x"]}
    return Model(stacks, zoo.perturbed(GaussianPrior(4, "full"), 0.3))


@pytest.mark.parametrize("make", [lambda: zoo.linear_gaussian((4, 3, 2, 2)), two_linear])
def test_of_a_linear_gaussian_model_it_is_the_exact_mean(make) -> None:
    model = make()
    x = exact.draws(model, 6)[1]
    batch = Batch.of(x, exact.holes(x))
    posterior = Posterior(model, batch)
    peak = ascend(posterior.log_prob, posterior.start(2), tolerance=1e-8)
    law, _ = exact.joint_law(model)
    for row in range(6):
        seen = [
            torch.ones(v.shape[-1], dtype=torch.bool) if m is None else m[row]
            for v, m in zip(batch.x.values(), batch.seen.values(), strict=True)
        ]
        known = torch.cat([torch.zeros(posterior.elements, dtype=torch.bool), *seen])
        data = torch.cat([v[row] for v in batch.x.values()])
        whole = torch.cat([torch.zeros(posterior.elements).double(), data])
        mean = exact.given(law, whole, known).mean[: posterior.elements]
        torch.testing.assert_close(peak.position[:, row], mean.expand(2, -1), rtol=0, atol=1e-6)
    assert (peak.slope < 1e-6).all()  # as near as rounding lets it come


def test_it_never_falls_and_ends_where_nothing_rises() -> None:
    model = zoo.two_modalities()
    posterior = Posterior(model, zoo.batch(model, holes=True))
    start = posterior.start(20)
    before = posterior.log_prob(start)
    for steps in (1, 2, 5, 20, 200):
        peak = ascend(posterior.log_prob, start, steps)
        assert (peak.log_prob >= before).all()
        torch.testing.assert_close(posterior.log_prob(peak.position), peak.log_prob)
        before = peak.log_prob
    assert (peak.slope < 1e-4).all()


@pytest.mark.parametrize("name", zoo.models())
def test_no_draw_of_the_encoders_is_more_probable_than_the_most_probable_path(name: str) -> None:
    model = zoo.models()[name]()
    posterior = Posterior(model, zoo.batch(model, holes=name != "autoregressive"), smooth=False)
    torch.manual_seed(1)
    draws = posterior.start(30)
    torch.manual_seed(1)
    peak = most_probable(posterior, 30)
    best = posterior.log_prob(draws).amax(0)
    assert (peak.log_prob >= best).all()
    torch.testing.assert_close(posterior.log_prob(peak.position), peak.log_prob)
    discrete = discrete_levels(posterior.floors)
    if not discrete:
        assert (peak.log_prob > best).all()
    for level, h in posterior.split(peak.position).items():
        kept = posterior.split(draws)[level]
        assert (h == kept).all(-1).any(0).all() or level not in discrete


def valley(x: Tensor) -> Tensor:
    """Rosenbrock's, its maximum at ones."""
    return -((1 - x[..., :-1]).square() + 100 * (x[..., 1:] - x[..., :-1].square()).square()).sum(
        -1
    )


def test_it_follows_a_bent_valley_and_rows_do_not_disturb_each_other() -> None:
    start = zoo.randn(30, 4)
    together = ascend(valley, start, steps=300, tolerance=1e-8)
    good = (together.position - 1).abs().amax(-1) < 1e-6
    assert good.double().mean() > 0.6  # it has another maximum near x_1 = -1
    assert (together.slope < 1e-6).all()
    alone = ascend(valley, start[3:4], steps=300, tolerance=1e-8)
    torch.testing.assert_close(alone.position[0], together.position[3], rtol=0, atol=1e-6)


def test_what_is_not_free_stays() -> None:
    free = torch.tensor([[True, False], [False, True]])
    start = zoo.randn(5, 2, 2)
    peak = ascend(lambda h: -(h - 3).square().sum(-1), start, free=free)
    assert torch.equal(peak.position[:, ~free], start[:, ~free])
    torch.testing.assert_close(peak.position[:, free], torch.full((5, 2), 3.0).double())
    assert (peak.slope < 1e-5).all()


def test_a_wall_is_not_climbed() -> None:
    def log_prob(h: Tensor) -> Tensor:
        inside = (h < 1).all(-1)
        return torch.where(inside, h.sum(-1), -torch.inf)

    peak = ascend(log_prob, torch.zeros(1, 2))
    assert torch.isfinite(peak.log_prob).all()
    assert (peak.position < 1).all()
    assert peak.log_prob.item() > 1.5


def test_what_has_no_start_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite at the start of 1 of 2 rows"):
        ascend(lambda h: h.log().sum(-1), torch.tensor([[1.0], [0.0]]))
    with pytest.raises(ValueError, match="at least one step, but got 0"):
        ascend(valley, zoo.randn(2, 2), steps=0)


def test_a_stack_alone_needs_no_prior_of_its_own() -> None:
    model = Model({"a": zoo.stack(zoo.Gaussian(2), (1,)), "b": Stack(elements=1)}, GaussianPrior(2))
    posterior = Posterior(model, Batch.of({"a": torch.ones(3, 2), "b": torch.zeros(3, 1)}))
    assert (ascend(posterior.log_prob, posterior.start()).slope < 1e-3).all()

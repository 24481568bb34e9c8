"""Regressions of what is missing: exact for Gaussian rows, learned from rows with holes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genprop.build import learn_beforehand
from genprop.conditional import Gaussian
from genprop.data import Batch
from genprop.estimator import GenProp
from genprop.model import Model
from genprop.nets import MLP
from genprop.priors.gaussian import GaussianPrior
from genprop.regressed import Regressed
from genprop.stack import Stack


class First(nn.Module):
    """The row as the net reads it."""

    def forward(self, x: Tensor, missing: Tensor) -> Tensor:
        return x


def gaussian(elements: int, width: int) -> Regressed:
    """One whose rows have a known law."""
    torch.manual_seed(0)
    net = Regressed(MLP(elements, 2, (), masked=True), elements).double()
    with torch.no_grad():
        net.loc.normal_()
        net.weight[:, :width] = torch.randn(elements, width, dtype=torch.float64)
        net.noise.uniform_(0.2, 0.6)
    return net


def moments(net: Regressed) -> tuple[Tensor, Tensor]:
    return net.loc, net.weight @ net.weight.mT + torch.diag(net.noise)


def conditional(net: Regressed, row: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of what is missing, by the rule for normal laws."""
    loc, joint = moments(net)
    gain = joint[~seen][:, seen] @ torch.linalg.inv(joint[seen][:, seen])
    mean = loc[~seen] + gain @ (row[seen] - loc[seen])
    return mean, joint[~seen][:, ~seen] - gain @ joint[seen][:, ~seen]


@pytest.mark.parametrize("width", [1, 3, 5])
def test_means_are_those_of_the_conditional_normal_law(width: int) -> None:
    net = gaussian(5, width)
    x, seen = torch.randn(2, 8, 5).double(), torch.rand(8, 5) < 0.5
    filled = net.filled(x, (~seen).double())
    for draw in range(2):
        for row in range(8):
            mean, _ = conditional(net, x[draw, row], seen[row])
            torch.testing.assert_close(filled[draw, row][~seen[row]], mean)
    assert torch.equal(filled[:, seen], x[:, seen])


def test_draws_have_the_moments_of_the_conditional_normal_law() -> None:
    net = gaussian(4, 2)
    seen = torch.tensor([True, False, True, False])
    count = 40_000
    x = torch.randn(4).double().expand(count, 4)
    drawn = net.filled(x, (~seen).double().expand(count, 4), drawn=True)[:, ~seen]
    mean, covariance = conditional(net, x[0], seen)
    # five standard errors of a mean; of a covariance's entries they are at most √2 times as large
    error = 5 * covariance.diag().max().sqrt() / count**0.5
    assert (drawn.mean(0) - mean).abs().max() < error
    assert (drawn.T.cov() - covariance).abs().max() < 2 * error * covariance.diag().max().sqrt()


def test_rows_with_holes_teach_nearly_the_best_regression() -> None:
    truth = gaussian(6, 2)
    loc, joint = moments(truth)
    x = torch.distributions.MultivariateNormal(loc, joint).sample((2000,)) * 100 + 30
    seen = torch.rand(x.shape) < 0.6
    best, learned = truth, gaussian(6, 0)
    learned.learn(torch.where(seen, x, torch.nan), seen)
    hidden = (~seen).double()
    errors = [
        ((net.filled((x - a) / b, hidden) * b + a - x)[~seen] ** 2).mean()
        for net, a, b in ((best, 30, 100), (learned, 0, 1))
    ]
    assert errors[1] < 1.03 * errors[0] < 0.8 * (x.var(0).mean())


def test_columns_that_say_nothing_do_no_harm() -> None:
    net = gaussian(4, 0)
    x = torch.randn(30, 4).double()
    x[:, 1] = 3.0
    seen = torch.ones(30, 4, dtype=torch.bool)
    seen[:, 2] = False
    net.learn(x, seen)
    filled = net.filled(x, torch.ones(30, 4).double())
    assert filled.isfinite().all()
    torch.testing.assert_close(filled[:, 1], torch.full((30,), 3.0).double(), atol=0.1, rtol=0)
    net.learn(x[:0], seen[:0])
    assert net.filled(x, (~seen).double()).isfinite().all()


def test_what_is_missing_is_not_looked_at_and_nothing_is_a_parameter() -> None:
    net = gaussian(5, 3)
    x, missing = torch.randn(8, 5).double(), (torch.rand(8, 5) < 0.5).double()
    net.eval()
    torch.testing.assert_close(net(x, missing), net(x + 9 * missing, missing))
    assert torch.equal(net(x), net.net(x))
    assert {id(p) for p in net.parameters()} == {id(p) for p in net.net.parameters()}
    one, other = (net.train()(x, missing) for _ in range(2))
    assert (one != other).any()


def test_readers_stand_below_and_learn_before_training(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 1)) @ rng.normal(size=(1, 4)) + 0.1 * rng.normal(size=(80, 4))
    x[rng.random(x.shape) < 0.3] = np.nan
    settings = {"hidden": (3, 2), "regress": True, "epochs": 2, "verbose": 0, "random_state": 0}
    model = GenProp(**settings).fit(x)
    readers = [m for m in model.model_.modules() if isinstance(m, Regressed)]
    assert len(readers) == 1
    assert readers[0].weight.abs().max() > 0.3
    model.save(tmp_path / "model")
    again = GenProp.load(tmp_path / "model")
    np.testing.assert_array_equal(again.impute(x, draws=2), model.impute(x, draws=2))


def test_a_model_above_raw_modalities_reads_regressions_of_the_whole_row() -> None:
    x = torch.randn(60, 1).expand(60, 2)
    settings = {"hidden": (), "top": (2,), "regress": True, "epochs": 1, "verbose": 0}
    model = GenProp(**settings).fit({"a": x.numpy(), "b": x.numpy()}).model_
    (reader,) = (m for m in model.modules() if isinstance(m, Regressed))
    assert reader.elements == 4
    given, missing = torch.full((1, 4), 0.7), torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    torch.testing.assert_close(reader.filled(given, missing), given, atol=0.1, rtol=0)
    deep = GenProp(**{**settings, "hidden": (2,)}).fit({"a": x.numpy(), "b": x.numpy()}).model_
    assert [m.elements for m in deep.modules() if isinstance(m, Regressed)] == [2, 2]


def test_other_nets_are_left_alone() -> None:
    model = Model(Stack.build(Gaussian(3), (2,)), GaussianPrior(2))
    before = nn.utils.parameters_to_vector(model.parameters()).clone()
    learn_beforehand(model, Batch.of(torch.randn(5, 3)))
    assert torch.equal(nn.utils.parameters_to_vector(model.parameters()), before)


def test_regressions_keep_their_digits_in_mixed_precision() -> None:
    net = gaussian(5, 3).float().eval()
    net.net = First()
    x, missing = torch.randn(8, 5), (torch.rand(8, 5) < 0.5).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = net(x, missing)
    torch.testing.assert_close(mixed, net(x, missing), rtol=0, atol=0)
    table = torch.where(missing.bool(), torch.nan, x).repeat(8, 1).numpy()
    settings = {"hidden": (2,), "regress": True, "epochs": 2, "verbose": 0, "random_state": 0}
    model = GenProp(**settings, precision="bf16-mixed").fit(table)
    assert np.isfinite(model.impute(table)).all()

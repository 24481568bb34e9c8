"""Log P(x_a | x_b) against exact conditionals, and the choice of estimators by name."""

import numpy as np
import pytest
import torch
import zoo
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from genprop.conditional import Bernoulli
from genprop.data import Batch
from genprop.likelihood.conditional import conditional
from genprop.likelihood.estimate import joined
from genprop.likelihood.exact import exact
from genprop.likelihood.importance import importance
from genprop.likelihood.methods import METHODS, dimensions, log_likelihood
from genprop.model import Model
from genprop.multivariate import JointNormal
from genprop.priors.gsn import GSNPrior

UNTRAINED = pytest.mark.filterwarnings("ignore:k-hat is above")


@settings(deadline=None, max_examples=20)
@drawn(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=4, max_size=4))
def test_it_is_the_exact_conditional_of_a_gaussian(pattern):
    model = zoo.linear_gaussian((3, 2))
    law = zoo.exact_marginal(model)
    x = law.sample((4,))
    mask = torch.tensor(pattern)
    joint = JointNormal(law.loc, law.scale_tril)
    expected = joint.given(x, mask).log_prob(x).detach().numpy()
    found = log_likelihood(model, Batch.of(x), given={"x": mask})
    assert found.method == ("certainty" if mask.all() else "closed form")
    np.testing.assert_allclose(found.log_prob, expected, atol=1e-9)
    np.testing.assert_allclose(found.dimensions, (~mask).sum(-1))


@UNTRAINED
@pytest.mark.parametrize("method", ["importance", "annealed", "deterministic", "csl"])
def test_every_method_that_takes_holes_agrees(method):
    model = zoo.bernoulli((2,))
    batch = zoo.batch(model, rows=6)
    mask = torch.rand(batch.x["x"].shape) < 0.5
    mask[0] = False
    mask[1] = True
    truth = log_likelihood(model, batch, "exact", given={"x": mask})
    options = {"samples": {"annealed": 64}.get(method, 4000)}
    found = log_likelihood(model, batch, method, given={"x": mask}, **options)
    # with two bits all codes are neighbours, but those that differ in both
    room = 1.0 if method == "deterministic" else 4.5 * found.std_error + 1e-9
    assert (np.abs(found.log_prob - truth.log_prob) < room).all()
    assert truth.log_prob[1] == 0


@UNTRAINED
def test_modalities_can_be_given_by_name():
    model = zoo.two_modalities()
    batch = zoo.batch(model, rows=5)
    seen = {"image": torch.ones_like(batch.x["image"]).bool()}
    seen["label"] = torch.zeros_like(batch.x["label"]).bool()
    torch.manual_seed(0)
    one = log_likelihood(model, batch, "importance", 200, given=["image"])
    torch.manual_seed(0)
    other = log_likelihood(model, batch, "importance", 200, given=Batch.of(batch.x, seen))
    np.testing.assert_array_equal(one.log_prob, other.log_prob)
    np.testing.assert_array_equal(one.dimensions, np.ones(5))
    # the law of a label given an image sums to one
    labels = torch.eye(3).double()
    total = np.zeros(5)
    for label in labels:
        rows = Batch.of({"image": batch.x["image"], "label": label.expand(5, -1)})
        total += np.exp(log_likelihood(model, rows, "importance", 20_000, ["image"]).log_prob)
    np.testing.assert_allclose(total, 1, atol=0.15)


@UNTRAINED
@pytest.mark.parametrize("method", ["importance", "annealed", "csl"])
def test_where_nothing_is_left_to_tell_it_is_0_and_no_sample_is_taken(method):
    model = zoo.two_modalities()
    batch = zoo.batch(model, rows=4)
    seen = {name: torch.ones_like(x, dtype=torch.bool) for name, x in batch.x.items()}
    seen["label"][1:3] = False
    told = {name: mask.clone() for name, mask in seen.items()}
    told["image"][2:] = False
    told["label"][3] = False
    rows = Batch.of(batch.x, seen)
    found = log_likelihood(model, rows, method, 16, told)
    # the first shows only what is given, the second too, and lacks its label
    np.testing.assert_array_equal(found.log_prob[:2], 0)
    np.testing.assert_array_equal(found.std_error[:2], 0)
    np.testing.assert_array_equal(found.dimensions, [0, 0, 5, 6])
    assert (found.log_prob[2:] < 0).all()
    worked_on = []

    def counted(part: Batch):
        worked_on.append(part.rows)
        return importance(model, part, 16)

    conditional(rows, told, counted)
    assert worked_on == [2]  # of neither anything is given
    nothing = conditional(rows, rows, counted)
    assert worked_on == [2]
    np.testing.assert_array_equal(nothing.log_prob, np.zeros(4))
    assert (nothing.samples, nothing.bound, nothing.unreliable) == (0, "point", 0)
    both = joined([nothing, found])
    assert (both.rows, both.samples, both.method) == (8, found.samples, found.method)


@UNTRAINED
def test_errors_are_those_of_independent_estimates():
    model = zoo.gaussian(1)
    batch = zoo.batch(model, rows=30)
    mask = torch.arange(4).expand(30, 4) < 2
    runs = [log_likelihood(model, batch, "importance", 400, {"x": mask}) for _ in range(30)]
    spread = np.stack([run.log_prob for run in runs]).std(0, ddof=1)
    told = np.stack([run.std_error for run in runs]).mean(0)
    # the spread of 30 runs is known to 13 % in each of 30 rows
    assert abs(np.median(spread / told) - 1) < 0.15
    assert runs[0].bound == "point"


def test_what_is_given_must_be_the_rows_own():
    model = zoo.gaussian(1)
    batch = zoo.batch(model, rows=3)

    def whole(rows: Batch):
        return importance(model, rows, 5)

    with pytest.raises(ValueError, match="differ from those of the rows"):
        conditional(batch, Batch.of(batch.x["x"] + 1), whole)
    with pytest.raises(ValueError, match="modalities are"):
        conditional(batch, ["image"], whole)
    with pytest.raises(ValueError, match="must be boolean of shape"):
        conditional(batch, {"x": torch.ones(3, 4)}, whole)
    with pytest.raises(ValueError, match="same shape"):
        conditional(batch, Batch.of(batch.x["x"][:2]), whole)


def test_auto_takes_the_best_that_applies():
    linear, bits = zoo.linear_gaussian((3, 2)), zoo.bernoulli()
    chain = Model(zoo.stack(Bernoulli(3), (2,), "bernoulli"), GSNPrior(Bernoulli(2))).double()
    expected = {"closed form": linear, "enumeration": bits, "CSL": chain}
    for method, model in expected.items():
        assert log_likelihood(model, zoo.batch(model), samples=3).method == method
    assert log_likelihood(zoo.mixed(), zoo.batch(zoo.mixed()), samples=3).method == "importance"


def test_names_and_options_are_checked():
    model = zoo.mixed()
    batch = zoo.batch(model)
    with pytest.raises(ValueError, match="method must be one of auto, exact"):
        log_likelihood(model, batch, "magic")
    with pytest.raises(ValueError, match="'importance' has no option steps; it has refine, sampl"):
        log_likelihood(model, batch, "importance", steps=3)
    assert {"exact", "importance", "annealed", "csl", "parzen"} <= set(METHODS)


def test_weights_that_cannot_be_trusted_are_told_with_a_way_out():
    model = zoo.linear_gaussian((3, 2))
    layer = zoo.only_stack(model)[0]
    zoo.invert(layer, zoo.exact_marginal(model, 1), 0.2)
    batch = Batch.of(zoo.exact_marginal(model).sample((20,)))
    with pytest.warns(UserWarning, match="k-hat is above 0.7 in .* of the rows: .* widen=0.1"):
        log_likelihood(model, batch, "importance", 1000)


@UNTRAINED
def test_dimensions_count_what_is_seen_and_a_label_once():
    model = zoo.two_modalities()
    batch = zoo.batch(model, rows=6, holes=True)
    image, label = (batch.seen[name] for name in ("image", "label"))
    expected = image.sum(1) + label[:, 0]
    np.testing.assert_array_equal(dimensions(model, batch), expected)
    found = log_likelihood(model, batch, "importance", 50)
    total = -found.log_prob.sum() / np.log(2) / expected.sum().item()
    assert np.isclose(found.bits_per_dimension, total)
    assert exact(zoo.bernoulli(), zoo.batch(zoo.bernoulli())).dimensions is None

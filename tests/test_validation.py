"""What is held out is not trained on, and its bound is that of the others' conditional law."""

import numpy as np
import pytest
import torch
import zoo
from hypothesis import given
from hypothesis import strategies as st

from genprop.data import Batch
from genprop.estimator import GenProp
from genprop.likelihood.exact import exact
from genprop.tables.imputer import GenPropImputer
from genprop.validation import mean_bound


@given(st.integers(0, 2**31), st.sampled_from([0.1, 0.5]), st.booleans())
def test_cells_are_trained_on_or_held_out(seed: int, share: float, holes: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = 1 + torch.rand(40, 5, generator=generator)
    known = torch.rand(40, 2, generator=generator) < (0.7 if holes else 2.0)
    seen = known.repeat_interleave(torch.tensor([2, 3]), -1)
    train, held = Batch.of(x, seen).split_cells(share, {"x": (2, 3)})
    assert held is not None
    assert held.shown is not None
    assert held.shown["x"] is not None
    kept = train.masks()["x"]
    assert torch.equal(held.shown["x"], kept)
    assert torch.equal(held.masks()["x"], seen)
    assert not (kept & ~seen).any()
    assert (seen & ~kept).any()
    # what was held out has no value left to learn from, and groups go whole or not at all
    assert torch.equal(train.x["x"], torch.where(kept, x, 0))
    assert all(((part == part[:, :1]).all()) for part in kept.split([2, 3], -1))


def test_no_cell_to_hold_out_leaves_all_to_training() -> None:
    data = Batch.of(torch.ones(4, 2), torch.tensor([[True, False]] * 4))
    train, held = data.split_cells(0.0)
    assert train is data
    assert held is None


def test_the_bound_of_cells_is_their_conditional_log_likelihood() -> None:
    model = zoo.linear_gaussian()
    x = zoo.exact_marginal(model).sample((30,))
    torch.manual_seed(0)
    _, held = Batch.of(x).split_cells(0.3)
    assert held is not None
    assert held.shown is not None
    parts = Batch.of(x), Batch(held.x, held.shown)
    whole, part = (exact(model, b).log_prob.mean() for b in parts)
    # importance weights of 20,000 paths in place of the exact law
    assert mean_bound(model, held, 20_000) == pytest.approx(whole - part, abs=0.01)


def test_held_out_cells_tell_when_little_data_is_overfitted() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2)) @ rng.normal(size=(2, 6)) + 0.5 * rng.normal(size=(60, 6))
    model = GenProp(
        (4,), held_out="cells", validation=0.2, patience=15, epochs=600, lr=1e-2, hide=0.0,
        random_state=0, verbose=0,
    ).fit(X)  # fmt: skip
    bounds = model.history_["validation"]
    assert len(bounds) == bounds.argmin() + 1 + 15 < 600
    assert model.history_["train"].iloc[-1] < model.history_["train"][bounds.argmin()]


def test_an_imputer_stops_where_it_is_asked_to() -> None:
    X = np.random.default_rng(0).normal(size=(50, 3))
    asked = {"validation": 0.2, "held_out": "cells", "patience": 2, "epochs": 300}
    imputer = GenPropImputer(settings=asked, members=2, random_state=0).fit(X)
    assert all(len(member.history_) < 300 for member in imputer.models_)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"validation": 1.0}, "the share held out"), ({"held_out": "columns"}, "rows, cells")],
)
def test_what_cannot_be_held_out_is_refused(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenProp(**arguments).fit(np.zeros((4, 2)))

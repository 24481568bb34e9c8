"""Families side by side are what each is by itself; categories in order."""

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st

from genprop.conditional import Bernoulli, Categorical, Gaussian, StudentT
from genprop.counting import NegativeBinomial, Poisson
from genprop.data import Batch
from genprop.description import describe, rebuild
from genprop.model import Model
from genprop.ordinal import Ordinal
from genprop.priors.gaussian import GaussianPrior
from genprop.rules.target import TargetPropagation
from genprop.stack import Stack
from genprop.tables.columns import Columns, SideBySide, variable_sizes
from genprop.tables.imputation import How, fill
from genprop.train import Trainer


def every_kind() -> Columns:
    blocks = [
        Gaussian(2),
        StudentT(1, scale="net"),
        Poisson((3.0,), (2.0,)),
        NegativeBinomial((3.0, 1.0)),
        Bernoulli(2),
        Ordinal((3, 4)),
        Categorical((2, 3)),
    ]
    return zoo.perturbed(Columns(blocks), 0.2)


def law_and_parts(rows: int = 5) -> tuple[SideBySide, list]:
    torch.manual_seed(0)
    family = every_kind()
    outputs = zoo.randn(rows, family.outputs)
    parts = outputs.split([block.outputs for block in family.blocks], -1)
    return family(outputs), [f(part) for f, part in zip(family.blocks, parts, strict=True)]


def masks(rows: int, family: Columns) -> torch.Tensor:
    """Random masks of whole variables."""
    sizes = torch.tensor(variable_sizes(family))
    return (torch.rand(rows, len(sizes)) < 0.5).repeat_interleave(sizes, -1)


def test_everything_is_that_of_the_parts() -> None:
    law, parts = law_and_parts()
    x = law.sample()
    blocks = law.blocks(x)
    total = sum(part.log_prob(block) for part, block in zip(parts, blocks, strict=True))
    torch.testing.assert_close(law.log_prob(x), total)
    torch.testing.assert_close(law.elements(x).sum(-1), total)
    torch.testing.assert_close(law.entropy(), sum(part.entropy() for part in parts))
    for name in ("mean", "mode", "variance"):
        expected = torch.cat([getattr(part, name) for part in parts], -1)
        torch.testing.assert_close(getattr(law, name), expected)
    noisy = x + 0.5
    expected = [part.denoise(b, 0.5) for part, b in zip(parts, law.blocks(noisy), strict=True)]
    torch.testing.assert_close(law.denoise(noisy, 0.5), torch.cat(expected, -1))


def test_parameters_rebuild_the_law_and_detach_it() -> None:
    law, _ = law_and_parts()
    x = law.sample((2,))
    again = law.with_parameters(*law.parameters)
    torch.testing.assert_close(again.log_prob(x), law.log_prob(x))
    assert law.log_prob(x).requires_grad
    assert not law.detach().log_prob(x).requires_grad


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_a_mask_of_whole_variables_leaves_the_others_law(seed: int) -> None:
    law, _ = law_and_parts()
    torch.manual_seed(seed)
    x, seen = law.sample(), masks(5, every_kind())
    whole = law.log_prob(x, seen) + law.given(x, seen).log_prob(x)
    torch.testing.assert_close(whole, law.log_prob(x))
    draws = law.given(x, seen).sample((2,))
    assert torch.equal(draws[:, seen], x[seen].expand(2, -1))


def test_a_variable_is_an_element_or_a_group() -> None:
    family = every_kind()
    assert variable_sizes(family) == (1, 1, 1, 1, 1, 1, 1, 1, 3, 4, 2, 3)
    assert sum(variable_sizes(family)) == family.elements


def test_it_is_described_and_rebuilt() -> None:
    family = every_kind()
    again = rebuild(describe(family)).double()
    again.load_state_dict(family.state_dict())
    outputs = zoo.randn(3, family.outputs)
    x = family(outputs).sample()
    torch.testing.assert_close(again(outputs).log_prob(x), family(outputs).log_prob(x))


def test_no_column_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one family"):
        Columns([])


def test_a_model_of_columns_learns_a_count_from_a_category() -> None:
    torch.manual_seed(0)
    which = torch.randint(2, (400,))
    counts = torch.poisson(torch.tensor([1.0, 9.0])[which])
    family = Columns([Poisson((5.0,), (4.0,)), Categorical((2,))])
    one_hot = torch.nn.functional.one_hot(which, 2).float()
    x = torch.cat([(counts[:, None] - 5) / 4, one_hot], -1)
    model = Model(Stack.build(family, (2,), units=(16,), skip=True), GaussianPrior(2))
    how = Trainer(epochs=40, lr=1e-2, patience=None, verbose=0, hide=0.5)
    how.fit(model, TargetPropagation(5), Batch.of(x))
    seen = torch.tensor([[False, True, True]] * 2)
    asked = Batch.of(torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), seen)
    filled = fill(model, asked, How("mean", samples=2000), seed=0)
    drawn, _ = model.complete(asked, draws=2000, samples=2000)
    means = drawn["x"].mean(0)[:, 0] * 4 + 5
    assert means[0] < 3 < 7 < means[1]
    assert filled.x["x"].shape == (1, 2, 3)


ORDERED = Ordinal((3, 5)).double()


def test_ordered_categories_have_the_probabilities_of_the_thresholds() -> None:
    family = zoo.perturbed(Ordinal((3, 5)), 0.3)
    output = zoo.randn(7, 2)
    probabilities = family(output).mean
    torch.testing.assert_close(probabilities[:, :3].sum(-1), torch.ones(7).double())
    torch.testing.assert_close(probabilities[:, 3:].sum(-1), torch.ones(7).double())
    theta = family.first[0]
    torch.testing.assert_close(probabilities[:, 0], torch.sigmoid(theta - output[:, 0]))


def test_at_first_all_categories_are_alike_and_outputs_move_them_up() -> None:
    even = ORDERED(torch.zeros(2).double()).mean
    torch.testing.assert_close(even, torch.tensor([1 / 3] * 3 + [1 / 5] * 5).double())
    levels = torch.cat([torch.arange(3), torch.arange(5)]).double()
    low, high = (
        (ORDERED(torch.full((2,), at).double()).mean * levels)[:3].sum() for at in (-1.0, 1.0)
    )
    assert low < 1 < high


@pytest.mark.parametrize("sizes", [(), (1,), (3, 1)])
def test_an_order_needs_two_categories(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least two categories"):
        Ordinal(sizes)


def test_an_order_of_two_is_a_bernoulli() -> None:
    family = Ordinal((2,)).double()
    output = zoo.randn(4, 1)
    torch.testing.assert_close(family(output).mean[:, 1:], torch.sigmoid(output))

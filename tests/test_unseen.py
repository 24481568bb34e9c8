"""What paths say of the unseen: their weighted laws are those that draws come from."""

import pytest
import torch
import zoo
from torch import Tensor

from genprop.data import Batch
from genprop.distributions import Product
from genprop.unseen import Law, unseen

PATHS, DRAWS = 4000, 500
models = pytest.mark.parametrize("name", zoo.models())


def mean_of(law: Law) -> Tensor:
    return law.mean if isinstance(law, Product) else law


@models
def test_weighted_means_are_those_of_draws(name: str) -> None:
    model = zoo.models()[name]()
    batch = zoo.batch(model, holes=True)
    torch.manual_seed(0)
    found = unseen(model, batch, PATHS)
    drawn, log_w = model.complete(batch, draws=DRAWS, samples=PATHS)
    weights = found.log_w.softmax(0)[..., None]
    # how far both may differ is decided by the fewest paths that count, or by the draws
    ess = torch.stack([1 / w.softmax(0).square().sum(0) for w in (found.log_w, log_w)]).amin(0)
    ess = ess.clamp(max=DRAWS)
    for modality, x in batch.x.items():
        seen = batch.seen[modality]
        assert seen is not None
        mean = (weights * found.apply(modality, mean_of)).sum(0)
        assert mean.shape == x.shape
        error = drawn[modality].std(0) * (2 / ess).sqrt()[:, None]
        # of at most forty elements, each within five standard errors
        assert ((mean - drawn[modality].mean(0)).abs() <= 5 * error + 1e-9)[~seen].all()


@models
def test_laws_are_told_for_every_path_and_row(name: str) -> None:
    model = zoo.models()[name]()
    batch = zoo.batch(model, holes=True)
    found = unseen(model, batch, 7)
    assert found.log_w.shape == (7, batch.rows)
    for modality, x in batch.x.items():
        assert found.apply(modality, mean_of).shape == (7, *x.shape)


def test_where_all_is_seen_paths_speak_for_themselves() -> None:
    model = zoo.nested()
    whole = Batch.of(zoo.batch(model).x)
    torch.manual_seed(0)
    found = unseen(model, whole, 5)
    torch.manual_seed(0)
    paths = model.encode(whole, 5)
    for modality, stack in model.named_stacks():
        law = stack[0].decoder(paths[modality].h[1])
        assert torch.equal(found.apply(modality, mean_of), law.mean)

"""What genprop is compared with on several views: regression, neighbours, MultiVae's models."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.neighbors import KNeighborsRegressor
from torch import Tensor, nn

from genprop.tables.missingness import log_mean

RIDGE, NEIGHBOURS, PACKAGE = "ridge regression", "nearest neighbours", "multivae"
ALPHAS = np.logspace(-1, 4, 11)
NEAREST = 8  # rows, weighted by distance, whose mean is the regression of neighbours
UNITS, LATENT, RATE = 256, 192, 1e-3
LEAST_SPREAD = 1e-3  # of an element that is constant in training rows
SAMPLES = 1  # of each code in an update of the mixtures; their default of 10 costs ten times more
SHARED, PRIVATE = 120, 12  # of models with codes of their own for six views: 120 + 6 · 12 = 192
JOINT_ONLY = "JNF"  # trained in two stages, on rows without holes; samples by Hamiltonian chains
MIXTURES = ("MMVAEPlus", "CMVAE")  # a call takes one given view at random for all its draws

Array = NDArray[np.float32]
Views = dict[str, Array]
Tensors = dict[str, Tensor]


class Effort(NamedTuple):
    """How much is computed.

    Attributes:
        epochs: of training.
        draws: of each hidden view.
        paths: of genprop, of which each draw is one.
        train: rows, or None for all of the split's.
        test: rows, or None for all of the split's.
        chained: test rows of the peer that samples by long chains.
        dense: test rows whose densities are asked for.
        chain: transitions of each of those, as the peer has them by default.
        batch: rows of an update.
    """

    epochs: int = 200
    draws: int = 20
    paths: int = 200
    train: int | None = None
    test: int | None = None
    chained: int = 50
    dense: int = 100
    chain: int = 100
    batch: int = 100


class Filled(NamedTuple):
    """Hidden views: a point ``(rows, elements)``, and where there are any ``(draws, …)``."""

    point: Views
    draws: Views | None = None


Fill = Callable[[Views], Filled]
"""Completes rows in which whole views are NaN, the same ones in all rows."""

Density = Callable[[Views, str], Array]
"""Log P(the view of that name | all others) of complete rows, nats."""


class Fitted(NamedTuple):
    """What a contender can do: fill, if it defines a density tell it, and fill in other ways."""

    fill: Fill
    density: Density | None = None
    others: Mapping[str, Fill] = MappingProxyType({})


Fit = Callable[[Views, int, Effort], Fitted]
"""From training rows, whose missing views are NaN, and a seed."""


def hidden_of(views: Views) -> list[str]:
    """The views of which nothing is seen."""
    return [name for name, x in views.items() if np.isnan(x).all()]


def given_of(views: Views) -> list[str]:
    """The others."""
    return [name for name in views if name not in hidden_of(views)]


def seen_rows(x: Array) -> NDArray[np.bool_]:
    """Where a view is not missing."""
    return ~np.isnan(x[:, 0])


def fit_ridge(train: Views, seed: int, effort: Effort) -> Fitted:
    """Ridge regression for each set of given views, its penalty chosen for each element."""

    def fill(rows: Views) -> Filled:
        point = {
            name: RidgeCV(ALPHAS, alpha_per_target=True).fit(x, y).predict(asked)
            for name, x, y, asked in _problems(train, rows)
        }
        return Filled(point)

    return Fitted(fill)


def fit_neighbours(train: Views, seed: int, effort: Effort) -> Fitted:
    """Training rows whose given views are nearest: the mean of a few, and all as draws."""

    def fill(rows: Views) -> Filled:
        point, draws = {}, {}
        for name, x, y, asked in _problems(train, rows):
            found = KNeighborsRegressor(NEAREST, weights="distance").fit(x, y)
            near = found.kneighbors(asked, effort.draws, return_distance=False)
            order = np.random.default_rng(seed).permuted(near, axis=1)  # no draw is the nearest
            point[name], draws[name] = found.predict(asked), y[order.T]
        return Filled(point, draws)

    return Fitted(fill)


def _problems(train: Views, rows: Views) -> Iterator[tuple[str, Array, Array, Array]]:
    """Of each hidden view what is given and what is asked for; holes get the training mean."""
    given = given_of(rows)
    x = np.concatenate([_filled(train[name]) for name in given], 1)
    asked = np.concatenate([rows[name] for name in given], 1)
    for name in hidden_of(rows):
        seen = seen_rows(train[name])
        yield name, x[seen], train[name][seen], asked


def _filled(x: Array) -> Array:
    return np.where(np.isnan(x), np.nanmean(x, 0), x)


def fit_multivae(name: str, train: Views, seed: int, effort: Effort) -> Fitted:
    """One of MultiVae's models, by Adam with its own loss.

    Its Gaussian decoders have a fixed scale; draws get the noise that training residuals have, and
    their density is log 1/K ∑_k N(y; decoder(z_k), noise²), z_k from the encoder given the rest.
    """
    torch.manual_seed(seed)
    np.random.seed(seed)  # its mixtures draw from numpy's global generator
    random.seed(seed)
    x = _told(train)
    seen = {key: torch.as_tensor(seen_rows(value)) for key, value in train.items()}
    model = _built(name, {key: value.shape[1] for key, value in x.items()}, effort)
    _train(model, x, None if name == JOINT_ONLY else seen, effort)
    model.eval()
    spread = _spread(model, x, seen)

    def fill(rows: Views) -> Filled:
        drawn = _drawn(model, _told(rows), given_of(rows), hidden_of(rows), effort)
        noisy = {key: y + spread[key] * torch.randn_like(y) for key, y in drawn.items()}
        draws = {key: y.numpy() for key, y in noisy.items()}
        return Filled({key: y.mean(0) for key, y in draws.items()}, draws)

    def density(rows: Views, hidden: str) -> Array:
        given, many = [key for key in rows if key != hidden], effort._replace(draws=effort.paths)
        means = _drawn(model, _told(rows), given, [hidden], many)[hidden]
        law = torch.distributions.Normal(means, spread[hidden].clamp_min(LEAST_SPREAD))
        each = law.log_prob(torch.as_tensor(rows[hidden])).sum(-1)
        return np.asarray(log_mean(each))

    return Fitted(fill, None if name == JOINT_ONLY else density)


def _told(rows: Views) -> Tensors:
    """As tensors, zero where nothing is told."""
    return {key: torch.as_tensor(np.nan_to_num(value)) for key, value in rows.items()}


def _built(name: str, widths: dict[str, int], effort: Effort) -> Any:
    """The model with one hidden layer in each net."""
    from multivae import models

    private = name in MIXTURES
    latent, style = (SHARED, PRIVATE) if private else (LATENT, 0)
    settings: dict[str, Any] = {"modalities_specific_dim": style, "K": SAMPLES} if private else {}
    parts: dict[str, Any] = {}
    encoders = {key: _encoder(width, latent, style) for key, width in widths.items()}
    config_class = getattr(models, f"{name}Config")
    if name == JOINT_ONLY:
        settings["warmup"] = effort.epochs
    config = config_class(
        n_modalities=len(widths),
        latent_dim=latent,
        input_dims={key: (width,) for key, width in widths.items()},
        **settings,
    )
    if name == JOINT_ONLY:
        parts["joint_encoder"] = _joint_encoder(encoders, config)
    decoders = {key: _decoder(latent + style, width) for key, width in widths.items()}
    return _class(name)(config, encoders, decoders, **parts)


def _class(name: str) -> Any:
    if name == "MoPoE":
        from benchmarks.mopoe import FastMoPoE

        return FastMoPoE
    from multivae import models

    return getattr(models, name)


def _joint_encoder(encoders: dict[str, Any], config: Any) -> Any:
    from multivae.models.nn.default_architectures import MultipleHeadJointEncoder

    return MultipleHeadJointEncoder(encoders, config, hidden_dim=UNITS, n_hidden_layers=1)


def _encoder(width: int, latent: int, style: int) -> nn.Module:
    """A perceptron to means and log variances of the shared code and of the view's own."""
    from multivae.models.nn.base_architectures import BaseMultilatentEncoder
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn.base_architectures import BaseEncoder

    class Encoder(BaseMultilatentEncoder if style else BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.latent_dim, self.style_dim = latent, style
            self.net = nn.Sequential(
                nn.Linear(width, UNITS), nn.ReLU(), nn.Linear(UNITS, 2 * (latent + style))
            )

        def forward(self, x: Tensor) -> Any:
            parts = self.net(x).split([latent, latent, style, style], -1)
            # copies, as some models write into them where a view is missing
            mean, log_var, own_mean, own_log_var = (part.clone() for part in parts)
            out = ModelOutput(embedding=mean, log_covariance=log_var)
            if style:
                out["style_embedding"], out["style_log_covariance"] = own_mean, own_log_var
            return out

    return Encoder()


def _decoder(latent: int, width: int) -> nn.Module:
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn.base_architectures import BaseDecoder

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(latent, UNITS), nn.ReLU(), nn.Linear(UNITS, width))

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.net(z))

    return Decoder()


def _train(model: Any, x: Tensors, seen: Tensors | None, effort: Effort) -> None:
    """As many updates as genprop makes; the peer of two stages makes them in each."""
    stages = 2 if seen is None else 1
    count = len(next(iter(x.values())))
    for epoch in range(1, stages * effort.epochs + 1):
        if epoch % effort.epochs == 1 % effort.epochs:
            adam = torch.optim.Adam(model.parameters(), lr=RATE)
        for rows in torch.randperm(count).split(effort.batch):
            adam.zero_grad()
            model(_batch(x, seen, rows), epoch=epoch).loss.backward()
            adam.step()


def _batch(x: Tensors, seen: Tensors | None, rows: Tensor) -> Any:
    from multivae.data.datasets.base import IncompleteDataset, MultimodalBaseDataset

    data = {key: value[rows] for key, value in x.items()}
    masks = {} if seen is None else {key: value[rows] for key, value in seen.items()}
    if all(bool(mask.all()) for mask in masks.values()):
        return MultimodalBaseDataset(data)
    return IncompleteDataset(data, masks)


@torch.no_grad()
def _spread(model: Any, x: Tensors, seen: Tensors) -> Tensors:
    """Root mean square of each element's residual in training rows, from what is seen of them."""
    squares = {key: torch.zeros(value.shape[1]) for key, value in x.items()}
    for names, rows in _patterns(model, seen):
        batch = _batch(x, None, rows)
        decoded = model.decode(model.encode(batch, cond_mod=names), list(x))
        for key, square in squares.items():
            residual = decoded[key] - batch.data[key]
            square += residual[seen[key][rows]].square().sum(0) if key in names else 0
    return {key: (square / seen[key].sum()).sqrt() for key, square in squares.items()}


def _patterns(model: Any, seen: Tensors) -> Iterator[tuple[list[str], Tensor]]:
    """Rows that show the same views, with their names."""
    table = torch.stack(list(seen.values()), 1)
    if model.model_name == JOINT_ONLY:  # its joint encoder reads all views, holes at their mean
        table = torch.ones_like(table)
    found, which = table.unique(dim=0, return_inverse=True)
    for number, pattern in enumerate(found):
        names = [key for key, shown in zip(seen, pattern.tolist(), strict=True) if shown]
        yield names, (which == number).nonzero()[:, 0]


@torch.no_grad()
def _drawn(
    model: Any, rows: Tensors, given: Sequence[str], hidden: Sequence[str], effort: Effort
) -> Tensors:
    """Means of the decoder for each draw of the code, ``(draws, rows, elements)``."""
    batch = _batch(rows, None, torch.arange(len(next(iter(rows.values())))))
    how = {"mcmc_steps": effort.chain} if model.model_name == JOINT_ONLY else {}
    calls, each = (effort.draws, 1) if model.model_name in MIXTURES else (1, effort.draws)
    parts = []
    for _ in range(calls):
        code = model.encode(batch, cond_mod=list(given), N=each, **how)
        decoded = model.decode(code, list(hidden))
        parts.append({key: decoded[key].reshape(each, -1, rows[key].shape[1]) for key in hidden})
    return {key: torch.cat([part[key] for part in parts]) for key in hidden}


MULTIVAE = ("MVTCAE", "MoPoE", "MMVAEPlus", "JNF", "CMVAE")
PEERS: dict[str, Fit] = {
    RIDGE: fit_ridge,
    NEIGHBOURS: fit_neighbours,
    **{name: partial(fit_multivae, name) for name in MULTIVAE},
}


def absent() -> list[str]:
    """The peers whose package is not installed."""
    return [] if find_spec(PACKAGE) else list(MULTIVAE)

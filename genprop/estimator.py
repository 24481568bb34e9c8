"""GenProp, the scikit-learn estimator over all of it."""

import dataclasses
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from genprop.build import build_model, build_rule
from genprop.data import Batch
from genprop.description import describe, rebuild
from genprop.encoding import Encoding
from genprop.impute import Imputation, resample
from genprop.likelihood.estimate import Estimate
from genprop.likelihood.importance import importance
from genprop.model import Model, joint_code
from genprop.persistence import fill, load, save
from genprop.prior import Prior
from genprop.rules.rule import Rule
from genprop.samplers.ancestral import ancestral
from genprop.seeds import seeded
from genprop.table import Raw, checked, completed, frame, holds_modalities, like
from genprop.train import Optimizer, Schedule, Trainer, start_fabric

Data = Any
METHODS = ("auto", "importance")
# a user's function has no place in a file; only fit would need it
STORED = (type(None), bool, int, float, str, tuple, list, dict, Prior, Rule)


class GenProp(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A deep generative model of rows: fit it, sample it, impute with it, trust its likelihood.

    P(x, h) = P(h_L) ∏_l P(h_{l-1} | h_l) is trained beside encoders Q(h_l | h_{l-1}) so that
    KL(Q‖P) falls, credit being assigned by a local rule. NaN (or None, or a table's NA) says that a
    cell is missing, in every method.

    Args:
        hidden: sizes of h_1, …, h_L, from the data upward, ``()`` for a prior on the data itself; a
            dict of them for several modalities.
        visible: the family of the data: ``"auto"`` (Bernoulli where all values are 0 or 1, else
            Gaussian), ``"gaussian"``, ``"bernoulli"``, ``"categorical"``, ``"logistic"``; a dict of
            them for several modalities.
        latent: family of the hidden layers, one name or one for each: ``"gaussian"``,
            ``"bernoulli"``, ``"categorical"``, ``"autoregressive"``.
        prior: P(h_L), a ``Prior``, a ``Model`` of codes, or a name of ``genprop.build.PRIORS``;
            ``"auto"`` is ``"gaussian"``, of several modalities ``"full"``, of discrete codes
            ``"factorial"``.
        rule: credit assignment: ``"target"``, ``"difference"``, ``"long"``, ``"rws"``, ``"elbo"``,
            ``"iwae"``, ``"dreg"``, or a ``Rule``.
        samples: paths drawn for each row in training; 1 is faster and fits less well.
        units: hidden units of every net.
        activation: of every net: ``"tanh"``, ``"relu"``, ``"elu"``, ``"gelu"``, ``"silu"``,
            ``"softplus"``.
        skip: whether nets have an affine path beside their hidden layers.
        hide: probability that a training row shows only a random part of its cells, so that
            encoders learn to cope with every pattern of missing cells.
        epochs: most visits of the data.
        batch_size: rows of a mini-batch; ``"auto"`` gives 20 updates an epoch, but no fewer than 16
            rows and no more than 128.
        lr: learning rate.
        optimizer: ``"adam"``, ``"adamw"``, ``"sgd"``, ``"rmsprop"``, or a callable.
        schedule: of the learning rate: ``"constant"``, ``"cosine"``, ``"onecycle"``, or a callable.
        clip: largest norm of each layer's gradient, or None.
        validation: share of the rows held out to decide when to stop.
        patience: epochs without a better validation bound before it stops; None never stops.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, …
        precision: ``"32"``, ``"64"`` or ``"bf16-mixed"``.
        compile: whether nets go through torch.compile.
        random_state: seed of fit and of every draw after it.
        verbose: 0 is silent; 1 shows progress on a terminal.

    Attributes:
        model_: the torch ``Model``.
        history_: a DataFrame with a row an epoch: bounds and the account of KL(Q‖P) by layer.
        encodings_: for each modality how its data became numbers.
        n_features_in_: columns of the data, of one modality.

    >>> X = np.array([[0.0, 1.0], [1.0, np.nan], [0.0, 1.0], [1.0, 0.0]])
    >>> model = GenProp(hidden=(2,), epochs=1, random_state=0, verbose=0).fit(X)
    >>> model.impute(X, draws=3).shape
    (3, 4, 2)
    """

    def __init__(
        self,
        hidden: Sequence[int] | Mapping[str, Sequence[int]] = (64, 32),
        *,
        visible: str | Mapping[str, str] = "auto",
        latent: str | Sequence[str] = "gaussian",
        prior: str | Prior = "auto",
        rule: str | Rule = "target",
        samples: int = 5,
        units: Sequence[int] = (128,),
        activation: str = "tanh",
        skip: bool = False,
        hide: float = 0.25,
        epochs: int = 200,
        batch_size: int | str = "auto",
        lr: float = 1e-3,
        optimizer: str | Optimizer = "adam",
        schedule: str | Schedule = "constant",
        clip: float | None = None,
        validation: float = 0.1,
        patience: int | None = 20,
        device: str = "auto",
        precision: str = "32",
        compile: bool = False,
        random_state: Any = None,
        verbose: int = 1,
    ) -> None:
        self.hidden = hidden
        self.visible = visible
        self.latent = latent
        self.prior = prior
        self.rule = rule
        self.samples = samples
        self.units = units
        self.activation = activation
        self.skip = skip
        self.hide = hide
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.optimizer = optimizer
        self.schedule = schedule
        self.clip = clip
        self.validation = validation
        self.patience = patience
        self.device = device
        self.precision = precision
        self.compile = compile
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = []  # codes have the model's precision
        return tags

    def fit(self, X: Data, y: object = None, *, validation_data: Data = None) -> "GenProp":
        """Trains a model of the rows.

        Args:
            X: array ``(rows, *event)``, tensor, DataFrame, or a dict of them by modality.
            y: not used; a label to be modelled is a modality: ``fit({"x": X, "label": y})``.
            validation_data: rows that decide when to stop, in place of a share of X.

        Raises:
            ValueError: data that no model can be fitted to, or an argument that says nothing.
            FloatingPointError: the loss stayed non-finite.
        """
        trainer = self._trainer()
        raws = checked(self, X, reset=True)
        encodings = {n: self._encoding(n, raw) for n, raw in raws.items()}
        with seeded(self.random_state):
            model = build_model(self._parts(), {n: e.visible() for n, e in encodings.items()})
            rule = build_rule(self.rule, self.samples)
            rule.check(model)
            # together, so that training that fails leaves the last good weights with their encoding
            self.encodings_, self.model_ = encodings, model
            train, held = self._split(self._encoded(raws), validation_data)
            history = trainer.fit(model, rule, train, held)
        self._keep(history)
        return self

    def sample(self, n: int = 1, *, given: Data = None, random_state: Any = None) -> Data:
        """Draws from P(x), or from P(x | what is given).

        Args:
            n: how many.
            given: rows some of whose cells are known; then n completions of each.
            random_state: seed in place of the estimator's.

        Returns:
            ``(n, *event)``, or a dict of them by modality; with ``given`` ``(n, rows, *event)``. A
            DataFrame where the model was fitted on one.
        """
        check_is_fitted(self)
        if given is not None:
            return self.impute(given, draws=n, random_state=random_state)
        with seeded(self._chosen(random_state)):
            drawn = ancestral(self.model_, n)
        return self._out(drawn)

    def impute(
        self,
        X: Data,
        *,
        draws: int = 1,
        method: str = "auto",
        samples: int = 200,
        random_state: Any = None,
    ) -> Data:
        """Completes rows with draws from P(x_unseen | x_seen); observed cells stay as they are.

        Nothing is fitted anew. Any pattern of missing cells goes, row by row.

        Args:
            X: rows like those of fit, with NaN in the cells to draw.
            draws: completions of each row.
            method: ``"auto"`` or ``"sir"``, sampling-importance-resampling from the encoder.
            samples: paths from which each draw is resampled.
            random_state: seed in place of the estimator's.

        Returns:
            ``(draws, rows, *event)``; of a DataFrame, one DataFrame with the draw as the outer
            level of its index; of a dict, a dict.
        """
        if method not in ("auto", "sir"):
            raise ValueError(f"method must be 'auto' or 'sir', but is {method!r}")
        raws = self._raws(X)
        imputed = self._imputation(raws, draws, samples, random_state)
        filled = {n: completed(self._decoded(n, imputed.x[n]), raws[n]) for n in raws}
        return filled if holds_modalities(X) else filled["x"]

    def log_likelihood(
        self, X: Data, *, method: str = "auto", samples: int = 1000, random_state: Any = None
    ) -> Estimate:
        """Log P(x_seen) of each row, in nats and in the data's own units, with its error.

        Args:
            X: rows, any of their cells missing.
            method: ``"auto"`` or ``"importance"``.
            samples: importance samples K a row.
            random_state: seed in place of the estimator's.
        """
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, but is {method!r}")
        raws = self._raws(X)
        with seeded(self._chosen(random_state)):
            estimate = importance(self.model_, self._batch(raws), samples)
        jacobian = np.zeros(estimate.rows)
        for name, raw in raws.items():
            jacobian += self.encodings_[name].log_jacobian(raw.seen.reshape(raw.rows, -1))
        return dataclasses.replace(estimate, log_prob=estimate.log_prob + jacobian)

    def score_samples(self, X: Data) -> NDArray[np.float64]:
        """Log P(x_seen) of each row, nats; ``log_likelihood`` tells its error too."""
        return self.log_likelihood(X).log_prob

    def score(self, X: Data, y: object = None) -> float:
        """The mean of log P(x_seen) over rows, nats; y is not used."""
        return self.log_likelihood(X).mean

    def batch(self, X: Data) -> Batch:
        """The rows as ``model_`` takes them: numbers with masks, where it is, in its precision."""
        return self._batch(self._raws(X))

    def transform(self, X: Data) -> NDArray[np.float32]:
        """The codes h_L of the rows, by the mode of every encoder: ``(rows, code)``."""
        paths = self.model_.encode(self.batch(X), point=True)
        codes: NDArray[np.float32] = joint_code(paths)[0].cpu().numpy()
        return codes

    def inverse_transform(self, H: NDArray[Any]) -> Data:
        """E[x | h_1] of codes ``(rows, code)``, by the mode of every decoder above."""
        check_is_fitted(self)
        codes = torch.as_tensor(np.asarray(H)).to(self.model_.like)
        width = self.model_.prior.elements
        if codes.ndim != 2 or codes.shape[1] != width:
            raise ValueError(f"codes must be (rows, {width}), but have shape {tuple(codes.shape)}")
        paths = self.model_.decode(codes, point=True)
        return self._out({name: path.x for name, path in paths.items()})

    def reconstruct(self, X: Data) -> Data:
        """E[x | h_1] of the rows' own codes, by modes all the way; missing cells are filled too."""
        raws = self._raws(X)
        paths = self.model_.encode(self._batch(raws), point=True)
        back = self.model_.decode(joint_code(paths)[0], point=True)
        rebuilt = {n: like(self._decoded(n, path.x), raws[n]) for n, path in back.items()}
        return rebuilt if holds_modalities(X) else rebuilt["x"]

    def save(self, directory: str | Path) -> None:
        """Writes ``config.json`` and ``model.safetensors`` into a directory, or nothing at all."""
        check_is_fitted(self)
        arguments = self.get_params(deep=False)
        config = {
            "estimator": describe({k: v for k, v in arguments.items() if isinstance(v, STORED)}),
            "encodings": [e.config() for e in self.encodings_.values()],
            "model": describe(self.model_),
            "history": self.history_.astype(float).to_dict("records"),
            "columns": self.encodings_["x"].columns if "x" in self.encodings_ else None,
            "features": getattr(self, "n_features_in_", None),
        }
        save(Path(directory), config, dict(self.model_.state_dict()))

    @classmethod
    def load(
        cls,
        directory: str | Path,
        modules: Mapping[str, torch.nn.Module] | None = None,
        device: str = "auto",
    ) -> "GenProp":
        """The estimator that ``save`` wrote.

        Args:
            directory: where it lies.
            modules: your own modules by their place in the model, where it holds any.
            device: where the model is to live.

        Raises:
            FileNotFoundError: there is no saved model.
            ValueError: damaged, foreign or newer files, or a module that was not passed.
        """
        config, tensors = load(Path(directory))
        if "estimator" not in config:
            raise ValueError(f"{directory} holds a Model alone; read it with load_model")
        estimator = cls(**rebuild(config["estimator"], modules))
        encodings = [Encoding.of_config(e) for e in config["encodings"]]
        estimator.encodings_ = {e.modality: e for e in encodings}
        model: Model = rebuild(config["model"], modules)
        fill(model, tensors)
        estimator.model_ = model.to(start_fabric(device).device).eval()
        estimator._keep(config["history"])
        if config["features"] is not None:
            estimator.n_features_in_ = config["features"]
        if config["columns"] is not None:
            estimator.feature_names_in_ = np.asarray(config["columns"], dtype=object)
        return estimator

    def _keep(self, history: list[dict[str, float]]) -> None:
        import pandas as pd

        self.history_ = pd.DataFrame(history).astype({"epoch": int})
        self._n_features_out = self.model_.prior.elements

    def _trainer(self) -> Trainer:
        if not 0 <= self.validation < 1:
            raise ValueError(
                f"validation is the share of rows held out, from 0 to below 1, but is "
                f"{self.validation!r}"
            )
        names = [f.name for f in dataclasses.fields(Trainer)]
        return Trainer(**{name: getattr(self, name) for name in names})

    def _parts(self) -> dict[str, Any]:
        names = ("hidden", "latent", "prior", "units", "activation", "skip")
        return {name: deepcopy(getattr(self, name)) for name in names}

    def _encoding(self, name: str, raw: Raw) -> Encoding:
        visible = self.visible
        if isinstance(visible, Mapping):
            visible = visible.get(name, "auto")
        return Encoding.learn(raw.values, visible, raw.columns, name)

    def _raws(self, X: Data) -> dict[str, Raw]:
        check_is_fitted(self)
        return checked(self, X, reset=False)

    def _batch(self, raws: Mapping[str, Raw]) -> Batch:
        """The rows where the fitted model is, in its precision."""
        return self._encoded(raws).to(self.model_.like.device, self.model_.like.dtype)

    def _encoded(self, raws: Mapping[str, Raw]) -> Batch:
        """The rows in the data's precision."""
        values, seen = {}, {}
        for name, encoding in self.encodings_.items():
            numbers, mask = encoding.encode(raws[name].values)
            values[name] = torch.as_tensor(numbers)
            seen[name] = torch.as_tensor(mask)
        return Batch.of(values, seen)

    def _split(self, data: Batch, validation_data: Data) -> tuple[Batch, Batch | None]:
        if validation_data is not None:
            return data, self._encoded(checked(self, validation_data, reset=False))
        held = int(self.validation * data.rows)
        if held < 2:
            return data, None
        order = torch.randperm(data.rows)
        return data.take(order[held:]), data.take(order[:held])

    def _imputation(
        self, raws: Mapping[str, Raw], draws: int, samples: int, random_state: Any
    ) -> Imputation:
        with seeded(self._chosen(random_state)):
            return resample(self.model_, self._batch(raws), draws, samples)

    def _decoded(self, name: str, x: torch.Tensor) -> NDArray[Any]:
        return self.encodings_[name].decode(x.cpu().double().numpy())

    def _out(self, tensors: Mapping[str, torch.Tensor]) -> Data:
        out: dict[str, Any] = {}
        for name, x in tensors.items():
            decoded, columns = self._decoded(name, x), self.encodings_[name].columns
            out[name] = decoded if columns is None else frame(decoded, columns)
        return out["x"] if list(out) == ["x"] else out

    def _chosen(self, random_state: Any) -> Any:
        return self.random_state if random_state is None else random_state

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

from genprop.beginning import fit_by_prior
from genprop.build import PARTS, build_model, build_rule, learn_beforehand, learn_correlations
from genprop.data import Batch, Share
from genprop.encodings import OfLabels, class_rows, drawn, encoded, label_among, labels_of, learned
from genprop.fitted import keep_history, load_fitted, save_fitted
from genprop.likelihood.estimate import Estimate
from genprop.likelihood.given import given_rows, of_rows
from genprop.optimizers import Optimizer, Schedule
from genprop.prediction import label_proba
from genprop.prior import Prior
from genprop.recoding import codes_of, rebuilt, rows_of
from genprop.rules.rule import Rule
from genprop.samplers.ancestral import ancestral
from genprop.seeds import seeded
from genprop.stack import Units
from genprop.table import Data, Raw, checked, holds_modalities, without
from genprop.tables.columns import explaining
from genprop.tables.imputation import How
from genprop.tables.imputed import Imputed, impute_by
from genprop.train import Trainer, variables
from genprop.validation import check_held_out, hold_out


class GenProp(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A deep generative model of rows: fit it, sample it, impute with it, trust its likelihood.

    P(x, h) = P(h_L) ∏_l P(h_{l-1} | h_l) is trained beside encoders Q(h_l | h_{l-1}) so that
    KL(Q‖P) falls, by a local rule of credit. NaN (None, NA, or a mask) says that a cell is missing.

    Args:
        hidden: sizes of h_1, …, h_L from the data upward, ``()`` for a prior on the data itself; by
            modality a dict of them, or of any ``Stack``, a copy of which fit goes on training.
        visible: the family of the data: ``"auto"``, ``"gaussian"``, ``"bernoulli"``,
            ``"categorical"``, ``"logistic"``, ``"correlated"`` (Gaussian, errors of all elements
            together), ``"columns"`` (by what each holds). ``"auto"`` is this for tables of mixed
            types or nullable integers, categorical for labels (``encodings.learned``), else by 0
            and 1 or not. A dict names families of columns (``column_choice.KINDS``) or modalities.
        latent: family of the hidden layers, one name or one for each: ``"gaussian"``,
            ``"bernoulli"``, ``"categorical"``, ``"autoregressive"``.
        top: sizes of layers above the codes of all modalities together, whose encoder is told what
            of them is missing; with ``hidden=()`` they stand on the data itself.
        prior: P(h_L), a ``Prior``, a ``Model`` or a name of ``build.PRIORS``; ``"auto"``: gaussian,
            of several codes ``"mixture"``, of discrete codes ``"factorial"``, of data ``"full"``.
        rule: credit assignment: ``"target"``, ``"difference"``, ``"long"``, ``"rws"``, ``"elbo"``,
            ``"iwae"``, ``"dreg"``, or a ``Rule``.
        samples: paths drawn for each row in training; 1 is faster and fits less well.
        units: hidden units of every net, or ``Convolutions`` of images (``"28x28:32,64"``); a dict
            of them by modality, ``"top"`` for nets above all codes, (128,) for what it leaves out.
        activation: ``"tanh"``, ``"relu"``, ``"elu"``, ``"gelu"``, ``"silu"`` or ``"softplus"``.
        skip: whether nets have an affine path beside their hidden layers.
        dropout: probability that a hidden unit is left out in training, falling to 0 at its end.
        regress: whether encoders of data read, in place of what is missing, a regression of it.
        weights: by modality a factor of its log-likelihood in training, which is then no bound.
        hide: share of training rows that show only some cells, for encoders to meet every pattern;
            or by modality, of rows that hide it whole: with ``{"label": 0.5}`` labels alone.
        explain: whether decoders explain what was hidden, too, which is for imputation.
        practise: whether those rows teach encoders alone, for draws that are as sharp as the data.
        balance: least share of visits in training to rows that show each modality (``visits``).
        missing: why cells are missing: ``"mar"``, at random given what is seen; ``"mnar"``, by
            their own values, as data says (more in ``genprop.tables.missingness.MISSING``).
        epochs: most visits of the data.
        batch_size: rows of a mini-batch; ``"auto"`` gives 20 updates an epoch, within 16 to 128.
        lr: learning rate.
        optimizer: ``"adam"``, ``"adamw"``, ``"sgd"``, ``"rmsprop"``, or a callable.
        weight_decay: of the optimizer, such as 2.0 of ``"adamw"`` for few rows; None is its own.
        schedule: of the learning rate: ``"constant"``, ``"cosine"``, ``"onecycle"``, or a callable.
        clip: largest norm of each layer's gradient, or None.
        validation: the share held out of training to decide when to stop.
        held_out: what that is a share of: ``"rows"``, or ``"cells"`` (given the others of a row).
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

    >>> X = np.array([[0.0, 1.0], [1.0, np.nan], [0.0, 1.0], [1.0, 0.0]])
    >>> GenProp(hidden=(2,), epochs=1, random_state=0, verbose=0).fit(X).impute(X, draws=3).shape
    (3, 4, 2)
    """

    def __init__(
        self,
        hidden: Sequence[int] | Mapping[str, Any] = (64, 32),
        *,
        visible: str | Mapping[str, Any] = "auto",
        latent: str | Sequence[str] = "gaussian",
        top: Sequence[int] = (),
        prior: str | Prior = "auto",
        rule: str | Rule = "target",
        samples: int = 5,
        units: Units | str | Mapping[str, Units | str] = (128,),
        activation: str = "tanh",
        skip: bool = False,
        dropout: float = 0.0,
        regress: bool = False,
        weights: Mapping[str, float] | None = None,
        hide: Share = 0.25,
        explain: bool = False,
        practise: bool = False,
        balance: float = 0.0,
        missing: str = "mar",
        epochs: int = 200,
        batch_size: int | str = "auto",
        lr: float = 1e-3,
        optimizer: str | Optimizer = "adam",
        weight_decay: float | None = None,
        schedule: str | Schedule = "constant",
        clip: float | None = None,
        validation: float = 0.1,
        held_out: str = "rows",
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
        self.top = top
        self.prior = prior
        self.rule = rule
        self.samples = samples
        self.units = units
        self.activation = activation
        self.skip = skip
        self.dropout = dropout
        self.regress = regress
        self.weights = weights
        self.hide = hide
        self.explain = explain
        self.practise = practise
        self.balance = balance
        self.missing = missing
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.clip = clip
        self.validation = validation
        self.held_out = held_out
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
        """Trains a model of rows.

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
        encodings = {n: learned(n, raw, self.visible) for n, raw in raws.items()}
        with seeded(self.random_state):
            visible = {n: explaining(e.visible(), self.missing) for n, e in encodings.items()}
            model = build_model(deepcopy({n: getattr(self, n) for n in PARTS}), visible)
            rule = build_rule(self.rule, self.samples)
            rule.check(model)
            # together, so that training that fails leaves the last good weights with their encoding
            self.encodings_, self.model_ = encodings, model
            train, held = self._split(encoded(encodings, raws), validation_data)
            learn_beforehand(model, train)
            history = fit_by_prior(trainer, model, rule, train, held, self.prior)
            learn_correlations(model, train, self.hide)
        keep_history(self, history)
        return self

    def sample(
        self, n: int = 1, *, given: Data = None, refine: int = 0, random_state: Any = None
    ) -> Data:
        """Draws from P(x), or from P(x | what is given).

        Args:
            n: how many.
            given: rows some of whose cells are known; then n completions of each.
            refine: as of ``impute``.
            random_state: seed in place of the estimator's.

        Returns:
            ``(n, *event)``, with ``given`` ``(n, rows, *event)``; of a dict or a DataFrame, one.
        """
        check_is_fitted(self)
        if given is not None:
            return self.impute(given, draws=n, refine=refine, random_state=random_state)
        with seeded(self._chosen(random_state)):
            return drawn(self.encodings_, ancestral(self.model_, n))

    def impute(
        self,
        X: Data,
        *,
        draws: int = 1,
        method: str = "auto",
        samples: int = 200,
        refine: int = 0,
        donors: Data = None,
        neighbours: int = 20,
        random_state: Any = None,
    ) -> Data:
        """Completes rows with draws from P(x_unseen | x_seen); observed cells stay as they are.

        Any pattern of missing cells goes, and with the same seed a row gets the same draws in
        whatever batch it comes.

        Args:
            X: rows like those of fit, with NaN in the cells to draw.
            draws: completions of each row.
            method: ``"sir"``, importance resampling of encoded paths, ``"prior"``, of the prior's;
                ``"gibbs"``, chains from there; ``"hmc"``, with trajectories; ``"auto"``, what finds
                more, then chains if needed; ``"mean"`` (modes or medians of categories); ``"map"``,
                modes below the likeliest path; or near donors': ``"neighbours"``, ``"residuals"``.
            samples: paths from which each draw is resampled.
            refine: with n > 0, every row by ``"hmc"`` of n transitions; chains have 200 else.
            donors: rows that lend, such as those of fit.
            neighbours: of how many donors one lends each draw.
            random_state: seed in place of the estimator's.

        Returns:
            ``(draws, rows, *event)``; of a DataFrame, one DataFrame with the draw as the outer
            level of its index; of a dict, a dict.
        """
        how: dict[str, Any] = {"method": method, "draws": draws, "samples": samples, "khat": False}
        how |= {"donors": donors, "neighbours": neighbours, "refine": refine}
        return self.imputation(X, random_state=random_state, **how).draws

    def imputation(
        self, X: Data, *, refine: int = 0, random_state: Any = None, **how: Any
    ) -> Imputed:
        """What ``impute`` gives, with ESS, k-hat and R-hat of each row; ``how`` as there."""
        check_is_fitted(self)
        chosen = How(**how).refined(refine)
        return impute_by([self.model_], self, X, chosen, self._chosen(random_state))

    def log_likelihood(
        self,
        X: Data,
        *,
        method: str = "auto",
        samples: int | None = None,
        given: Data = None,
        random_state: Any = None,
        **options: Any,
    ) -> Estimate:
        """Log P(x_seen) of each row, or log P(x_a | x_b), in nats and in the data's own units.

        Args:
            X: rows, any of their cells missing.
            method: one of ``genprop.likelihood.methods.METHODS``, such as ``"annealed"``.
            samples: for each row; each method has a default, 1,000 of importance sampling.
            given: x_b, as a boolean mask of X's shape, as names of modalities, or as the rows with
                NaN in all else; x_a is what else is seen of X, and of nothing log P is 0.
            random_state: seed in place of the estimator's.
            options: of the method, such as ``widen`` of ``"importance"``.
        """
        raws = self._raws(X)
        known = None if given is None else self._raws(given_rows(X, given))
        with seeded(self._chosen(random_state)):
            return of_rows(self.model_, self.encodings_, raws, known, method, samples, **options)

    def score_samples(self, X: Data) -> NDArray[np.float64]:
        """Log P(x_seen) of each row, nats; ``log_likelihood`` tells its error too."""
        return self.log_likelihood(X).log_prob

    def score(self, X: Data, y: object = None) -> float:
        """The mean of log P(x_seen) over rows, nats; y is not used."""
        return self.log_likelihood(X).mean

    @OfLabels
    def predict_proba(
        self,
        X: Data,
        *,
        modality: str | None = None,
        samples: int = 200,
        random_state: Any = None,
    ) -> NDArray[np.float64]:
        """P(label | x_seen), ``(rows, classes)``, the classes as ``classes(modality)`` has them.

        Args:
            X: rows, whose own label is not looked at; all that show nothing else get one P(label).
            modality: the label; the only one, unless given.
            samples: importance samples for each row and class.
            random_state: seed in place of the estimator's.
        """
        name = label_among(self.encodings_, modality)
        told = class_rows(self.encodings_[name])
        with seeded(self._chosen(random_state)):
            return label_proba(self.model_, self.batch(without(X, name)), name, told, samples).proba

    @OfLabels
    def predict(self, X: Data, *, modality: str | None = None, **how: Any) -> NDArray[Any]:
        """The most probable class of a label, ``(rows,)``; arguments as of ``predict_proba``."""
        proba = self.predict_proba(X, modality=modality, **how)
        return np.asarray(self.classes(modality)[proba.argmax(1)])

    def classes(self, modality: str | None = None) -> NDArray[Any]:
        """The values of a label modality."""
        check_is_fitted(self)
        return labels_of(self.encodings_[label_among(self.encodings_, modality)])

    def batch(self, X: Data) -> Batch:
        """The rows as ``model_`` takes them: numbers with masks, where it is, in its precision."""
        return encoded(self.encodings_, self._raws(X), self.model_.like)

    def transform(self, X: Data) -> NDArray[Any]:
        """The uppermost codes of rows ``(rows, code)``, by modes, the unseen of them expected."""
        return codes_of(self.model_, self.batch(X))

    def inverse_transform(self, H: NDArray[Any]) -> Data:
        """E[x | h_1] of uppermost codes ``(rows, code)``, by the mode of every decoder above."""
        check_is_fitted(self)
        return rows_of(self.model_, self.encodings_, H)

    def reconstruct(self, X: Data) -> Data:
        """E[x | h_1] of rows by way of their uppermost codes; what is missing is filled too."""
        back = rebuilt(self.model_, self.encodings_, self._raws(X))
        return back if holds_modalities(X) else back["x"]

    def save(self, directory: str | Path) -> None:
        """Writes ``config.json`` and ``model.safetensors`` into a directory, or nothing at all."""
        check_is_fitted(self)
        save_fitted(self, Path(directory))

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
        return load_fitted(cls, Path(directory), modules, device)

    def _trainer(self) -> Trainer:
        check_held_out(self.validation, self.held_out)
        how = {f.name: getattr(self, f.name) for f in dataclasses.fields(Trainer)}
        # a mask is explained as it came
        return Trainer(**how | {"explain": self.explain or self.missing != "mar"})

    def _raws(self, X: Data) -> dict[str, Raw]:
        check_is_fitted(self)
        return checked(self, X, reset=False)

    def _split(self, data: Batch, validation_data: Data) -> tuple[Batch, Batch | None]:
        if validation_data is not None:
            return data, encoded(self.encodings_, self._raws(validation_data))
        return hold_out(data, self.validation, self.held_out, variables(self.model_))

    def _chosen(self, random_state: Any) -> Any:
        return self.random_state if random_state is None else random_state

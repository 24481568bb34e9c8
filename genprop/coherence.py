"""Whether what is drawn of one modality goes with what was given of the others."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from genprop.encodings import label_among
from genprop.estimator import GenProp
from genprop.names import check_names

TREES = 200


@runtime_checkable
class Classifier(Protocol):
    """Anything that tells labels of rows, such as a scikit-learn classifier."""

    def predict(self, X: Any) -> Any:
        """The labels of rows, ``(rows,)``."""


@dataclass(frozen=True)
class Coherence:
    """How often a classifier finds in the draws of a row the label that they should have.

    Attributes:
        shares: of each row the share of its draws, ``(rows,)``.
    """

    shares: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """The share of all draws."""
        return float(self.shares.mean())

    @property
    def std_error(self) -> float:
        """Of the mean, rows being drawn at random; NaN of a single row."""
        rows = len(self.shares)
        return float(self.shares.std(ddof=1)) / math.sqrt(rows) if rows > 1 else math.nan


def coherence(
    model: GenProp,
    given: Mapping[str, Any],
    drawn: str,
    classifier: Classifier,
    labels: Any = None,
    draws: int = 10,
    random_state: Any = None,
) -> Coherence:
    r"""The share of draws of a modality in which a classifier finds the right label.

    (1/n) Σ_i 1[c(x_i) = y] for each row, x_i ~ P(x | given). It tells whether draws go with what is
    given, not whether they are good or various; and it cannot be better than the classifier, which
    should have been fitted on rows that the model never saw.

    Args:
        model: fitted on several modalities.
        given: rows of those that are known, by name.
        drawn: the modality to be drawn.
        classifier: of rows of that modality as ``model.sample`` gives them, each made flat.
        labels: what the draws should be; if one of the given modalities is a label, its values.
        draws: of each row.
        random_state: seed in place of the model's.

    Raises:
        ValueError: the modality is given, nothing is, or a name is unknown; no labels, or not one
            for each row.

    References:
        Shi, Siddharth, Paige, Torr, 2019, Variational mixture-of-experts autoencoders for
        multi-modal deep generative models.
    """
    check_names("given", given, model.encodings_)
    if not given:
        raise ValueError("given holds no modality, so that there is nothing for draws to go with")
    if drawn in given or drawn not in model.encodings_:
        raise ValueError(
            f"drawn must be a modality of the model, {list(model.encodings_)}, that is not given, "
            f"but is {drawn!r}"
        )
    if labels is None:
        known = {name: model.encodings_[name] for name in given}
        labels = given[next(iter(known)) if len(known) == 1 else label_among(known, None)]
    found = model.sample(draws, given=given, random_state=random_state)[drawn]
    return Coherence(agreement(np.asarray(found), labels, classifier))


def agreement(draws: NDArray[Any], labels: Any, classifier: Classifier) -> NDArray[np.float64]:
    """Of each row the share of its draws in which a classifier finds the row's label.

    Args:
        draws: ``(draws, rows, *event)``.
        labels: one for each row.
        classifier: of draws made flat.

    Raises:
        ValueError: not one label for each row.

    >>> class Sign:
    ...     def predict(self, X):
    ...         return X[:, 0] > 0
    >>> agreement(np.array([[[1.0], [-1.0]], [[2.0], [3.0]]]), [True, True], Sign())
    array([1. , 0.5])
    """
    expected = np.asarray(labels)
    count, rows = draws.shape[:2]
    if expected.shape != (rows,):
        raise ValueError(
            f"there must be one label for each of the {rows} rows, but labels have shape "
            f"{expected.shape}"
        )
    told = np.asarray(classifier.predict(draws.reshape(count * rows, -1))).reshape(count, rows)
    return np.asarray((told == expected).mean(0), np.float64)


def fitted_classifier(x: Any, labels: Any, seed: int = 0) -> Classifier:
    """A forest that tells the labels of a modality's rows, which need no scaling.

    Args:
        x: rows that the model has not seen, ``(rows, *event)``, none of them with holes.
        labels: one for each.
        seed: of the forest.

    >>> forest = fitted_classifier(np.array([[0.0], [1.0]] * 10), ["no", "yes"] * 10)
    >>> forest.predict(np.array([[0.9]])).tolist()
    ['yes']
    """
    from sklearn.ensemble import RandomForestClassifier

    values = np.asarray(x)
    forest: Classifier = RandomForestClassifier(TREES, random_state=seed).fit(
        values.reshape(len(values), -1), np.asarray(labels)
    )
    return forest

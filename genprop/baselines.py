"""Plain densities of binary rows, to be beaten: independent Bernoullis and mixtures of them.

Values are 0, 1 or NaN; NaN is a value that was not seen, and is summed out exactly.
Log-probabilities are in nats.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

PerRow = Float[np.ndarray, " rows"]
PerComponent = Float[np.ndarray, "rows components"]


class IndependentBernoulli:
    """P(x) = prod_d p_d^x_d (1 - p_d)^(1 - x_d), with p_d = (ones + a) / (seen + 2 a).

    Args:
        smoothing: a > 0, the pseudo-count of ones and of zeros for each column (1 is Laplace's
            rule of succession).

    Attributes:
        probabilities_: p, one for each column.

    Example:
        >>> model = IndependentBernoulli().fit(np.array([[0, 1], [1, 1], [1, np.nan]]))
        >>> model.probabilities_
        array([0.6 , 0.75])
        >>> np.exp(model.log_prob(np.array([[1, 1], [0, np.nan]]))).round(6)
        array([0.45, 0.4 ])
    """

    def __init__(self, smoothing: float = 1.0) -> None:
        self.smoothing = _positive("smoothing", smoothing)

    def fit(self, X: np.ndarray) -> "IndependentBernoulli":
        ones, zeros = _counted(X)
        everyone = np.ones((len(ones), 1))
        self.probabilities_ = _expected_ones(everyone, ones, zeros, self.smoothing)[0]
        return self

    def log_prob(self, X: np.ndarray) -> PerRow:
        ones, zeros = _counted(X, len(self.probabilities_))
        return _log_bernoulli(ones, zeros, self.probabilities_[None])[:, 0]


class BernoulliMixture:
    """P(x) = sum_k w_k prod_d p_kd^x_d (1 - p_kd)^(1 - x_d), fitted by EM.

    EM climbs log P(X) + a (sum_k log w_k + sum_kd log p_kd (1 - p_kd)), the log-posterior under
    Dirichlet and Beta priors of a pseudo-counts (Dempster, Laird and Rubin 1977).
    Every restart begins with rows dealt out to components at random; the best objective is kept.

    Args:
        components: number of mixture components.
        smoothing: a > 0, the pseudo-count of ones and of zeros for each component and column, and
            of rows for each component.
        restarts: number of random beginnings.
        iterations: the most EM steps in each restart.
        tolerance: a restart ends when a step gains less than this, in nats per row.
        random_state: a seed or a numpy Generator.

    Attributes:
        weights_: w, of shape (components,).
        probabilities_: p, of shape (components, columns).
        objective_: what EM climbs, after every step of the restart that was kept.

    Example:
        >>> X = np.array([[0, 1], [1, 1], [1, 0]])
        >>> mixture = BernoulliMixture(components=1, smoothing=1.0, random_state=0).fit(X)
        >>> mixture.probabilities_
        array([[0.6, 0.6]])
        >>> np.exp(mixture.log_prob(X)).round(6)
        array([0.24, 0.36, 0.24])
    """

    def __init__(
        self,
        components: int,
        *,
        smoothing: float = 0.2,
        restarts: int = 3,
        iterations: int = 200,
        tolerance: float = 1e-4,
        random_state: int | np.random.Generator | None = None,
    ) -> None:
        self.components = int(_positive("components", components))
        self.smoothing = _positive("smoothing", smoothing)
        self.restarts = int(_positive("restarts", restarts))
        self.iterations = int(_positive("iterations", iterations))
        self.tolerance = tolerance
        self.random_state = random_state

    def fit(self, X: np.ndarray) -> "BernoulliMixture":
        ones, zeros = _counted(X)
        generator = np.random.default_rng(self.random_state)
        self.objective_ = np.array([-np.inf])
        for _ in range(self.restarts):
            weights, probabilities, objective = self._climb(ones, zeros, generator)
            if objective[-1] > self.objective_[-1]:
                self.weights_, self.probabilities_ = weights, probabilities
                self.objective_ = objective
        return self

    def log_prob(self, X: np.ndarray) -> PerRow:
        ones, zeros = _counted(X, self.probabilities_.shape[1])
        return _log_sum(_log_joint(ones, zeros, self.weights_, self.probabilities_))

    def _climb(
        self, ones: np.ndarray, zeros: np.ndarray, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """EM from random responsibilities: weights, probabilities, and the objective's path."""
        dealt = generator.permutation(len(ones)) % self.components
        responsibilities = np.eye(self.components)[dealt]
        objective: list[float] = []
        for _ in range(self.iterations):
            weights, probabilities = self._maximise(responsibilities, ones, zeros)
            joint = _log_joint(ones, zeros, weights, probabilities)
            log_prob = _log_sum(joint)
            responsibilities = np.exp(joint - log_prob[:, None])
            objective.append(float(log_prob.sum() + self._log_prior(weights, probabilities)))
            if len(objective) > 1 and objective[-1] - objective[-2] < self.tolerance * len(ones):
                break
        return weights, probabilities, np.array(objective)

    def _maximise(
        self, responsibilities: PerComponent, ones: np.ndarray, zeros: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        weights = responsibilities.sum(0) + self.smoothing
        return weights / weights.sum(), _expected_ones(
            responsibilities, ones, zeros, self.smoothing
        )

    def _log_prior(self, weights: np.ndarray, probabilities: np.ndarray) -> float:
        columns = np.log(probabilities) + np.log1p(-probabilities)
        return float(self.smoothing * (np.log(weights).sum() + columns.sum()))


def best_mixture(
    train: np.ndarray,
    validation: np.ndarray,
    components: Sequence[int] = (10, 20, 40, 80),
    random_state: int | np.random.Generator | None = None,
) -> BernoulliMixture:
    """The mixture fitted to `train` that gives `validation` the highest mean log-probability.

    Args:
        train: rows to fit.
        validation: rows to choose by.
        components: the numbers of components to try.
        random_state: a seed or a numpy Generator.
    """
    if not components:
        raise ValueError("Expected numbers of components to try, but got none; give at least one.")
    generator = np.random.default_rng(random_state)
    fits = [BernoulliMixture(k, random_state=generator).fit(train) for k in components]
    return max(fits, key=lambda mixture: float(mixture.log_prob(validation).mean()))


def _counted(X: np.ndarray, columns: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Which values are ones and which are zeros, as floats; a value not seen is neither."""
    values = np.asarray(X, dtype=float)
    if values.ndim != 2 or not values.size or columns not in (None, values.shape[1]):
        raise ValueError(
            f"Expected rows of {columns or 'binary'} columns, but got shape {values.shape}; "
            "give an array of shape (rows, columns)."
        )
    ones, zeros = values == 1, values == 0
    strange = ~(ones | zeros | np.isnan(values))
    if strange.any():
        raise ValueError(
            f"Expected the values 0 and 1, or NaN where nothing was seen, but got "
            f"{values[strange][0]:g}; binarise the data first."
        )
    return ones.astype(float), zeros.astype(float)


def _expected_ones(
    responsibilities: PerComponent, ones: np.ndarray, zeros: np.ndarray, smoothing: float
) -> np.ndarray:
    """The smoothed share of ones of each component and column."""
    n_ones = responsibilities.T @ ones + smoothing
    n_zeros = responsibilities.T @ zeros + smoothing
    share: np.ndarray = n_ones / (n_ones + n_zeros)
    return share


def _log_bernoulli(ones: np.ndarray, zeros: np.ndarray, probabilities: np.ndarray) -> PerComponent:
    log_prob: np.ndarray = ones @ np.log(probabilities).T + zeros @ np.log1p(-probabilities).T
    return log_prob


def _log_joint(
    ones: np.ndarray, zeros: np.ndarray, weights: np.ndarray, probabilities: np.ndarray
) -> PerComponent:
    """Log w_k P(x | k) for each row and component."""
    joint: np.ndarray = np.log(weights) + _log_bernoulli(ones, zeros, probabilities)
    return joint


def _log_sum(joint: PerComponent) -> PerRow:
    largest = joint.max(1, keepdims=True)
    total: np.ndarray = largest[:, 0] + np.log(np.exp(joint - largest).sum(1))
    return total


def _positive(name: str, value: float | int) -> float | int:
    if not value > 0:
        raise ValueError(f"Expected {name} above 0, but got {value}; give a positive number.")
    return value

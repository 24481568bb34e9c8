"""A table with holes: fit it once, complete it 50 times, and see how good the error bars are."""

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler

from genprop import GenProp

whole = StandardScaler().fit_transform(load_breast_cancer().data)  # 569 rows, 30 columns
hidden = np.random.default_rng(0).random(whole.shape) < 0.5  # half of the cells
table = np.where(hidden, np.nan, whole)

nets = {"hidden": (10,), "skip": True, "regress": True}
model = GenProp(**nets, hide=0.5, lr=3e-3, epochs=100, random_state=0)
draws = model.fit(table).impute(table, draws=50, method="sir")  # (50, 569, 30)

error = (draws.mean(0) - whole)[hidden]
low, high = np.quantile(draws, (0.1, 0.9), axis=0)
inside = ((low <= whole) & (whole <= high))[hidden]
by_means = np.mean(whole[hidden] ** 2)
print(f"mean squared error {np.mean(error**2):.3f}; of column means {by_means:.3f}")
print(f"80 % intervals hold {inside.mean():.0%} of the hidden values")
print(model.log_likelihood(table))

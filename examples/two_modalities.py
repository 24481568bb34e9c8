"""Digits and their labels as two modalities: label from image, image from label."""

import numpy as np
from sklearn.datasets import load_digits

from genprop import GenProp

digits = load_digits()
images = (digits.data >= 8).astype(float)
labels = digits.target.reshape(-1, 1)
train, test = slice(0, 1400), slice(1400, None)

model = GenProp(
    hidden={"image": (32, 16), "label": (16,)},
    visible={"label": "categorical"},
    epochs=60,
    lr=3e-3,
    random_state=0,
)
model.fit({"image": images[train], "label": labels[train]})

# what is missing altogether is all NaN (or None): here the labels of the test images
unknown = np.full(labels[test].shape, np.nan)
drawn = model.impute({"image": images[test], "label": unknown}, draws=20)["label"]
votes = [np.bincount(row, minlength=10).argmax() for row in drawn[..., 0].astype(int).T]
print(f"label drawn from the image: right in {np.mean(votes == digits.target[test]):.0%}")

threes = {"image": np.full((1, 64), np.nan), "label": np.array([[3]])}
print(model.sample(1, given=threes)["image"].reshape(8, 8).astype(int))

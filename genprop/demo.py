"""The demo: handwritten digits are modelled, scored beside plain densities, and completed."""

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

from genprop import plots
from genprop.baselines import BernoulliMixture, IndependentBernoulli, best_mixture
from genprop.data import Batch
from genprop.estimator import GenProp
from genprop.files import write_json
from genprop.rules.target import TargetPropagation
from genprop.seeds import seeded
from genprop.threads import one_thread

SHAPE = (8, 8)
FULL_INK = 16
LAYERS = (32, 16, 8)
SPLIT_SEED = 0
TRAIN, VALIDATION = 1200, 200
ACCOUNT_DRAWS = 20
INTRODUCTION = (
    "1,797 handwritten digits of 8 by 8 pixels, each black or white: 1,200 to learn from, 200 to "
    "decide when to stop, 397 to test on. A model with three stochastic layers learns P(x), of "
    "whole digits and of parts of them; this takes about a minute.\n"
)
FILES = {
    "samples.png": "samples beside test digits",
    "reconstructions.png": "test digits, each rebuilt from a code of 8 numbers",
    "imputations.png": "lower halves drawn, given the upper ones",
    "training.png": "bounds and terms by epoch; training rows partly hidden",
    "model": "the model: GenProp.load, or genprop sample, impute, evaluate",
    "results.json": "these figures",
}


@dataclass(frozen=True)
class Effort:
    """How much the demo computes; the tests ask for less.

    Attributes:
        epochs: most visits of the training rows.
        samples: importance samples for each row.
        components: the mixtures to choose from.
        draws: completions of each image.
    """

    epochs: int = 400
    samples: int = 1000
    components: tuple[int, ...] = (10, 20, 40, 80)
    draws: int = 20


class Digits(NamedTuple):
    """Rows of 64 zeros and ones, and the test rows' classes."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    classes: np.ndarray


def run_demo(
    folder: Path, seed: int = 0, console: Console | None = None, effort: Effort | None = None
) -> dict[str, Any]:
    """Fits the digits and fills a folder with pictures, the model and ``results.json``.

    Args:
        folder: made if it is not there.
        seed: of training and of all draws; the split is always the same.
        console: where to tell it all; None is silent.
        effort: how much to compute.

    Returns:
        What ``results.json`` holds.
    """
    start, effort = time.perf_counter(), effort or Effort()
    console = console or Console(quiet=True)
    folder.mkdir(parents=True, exist_ok=True)
    digits = split_digits()
    console.print(INTRODUCTION, highlight=False)
    model = _fitted(digits, seed, effort, verbose=not console.quiet)
    account = kl_account(model, digits.train)
    console.print(_account_table(account))
    scores = _scores(model, digits, effort)
    console.print(_scores_table(scores, effort))
    _write_pictures(folder, model, digits, effort)
    model.save(folder / "model")
    results = {
        "command": f"genprop demo --seed {seed}",
        "account": account,
        "scores": scores,
        "epochs": len(model.history_),
        "seconds": time.perf_counter() - start,
        "environment": _environment(),
    }
    write_json(folder / "results.json", results)
    console.print(f"Written into {folder}:", soft_wrap=True)
    console.print(_files_table())
    return results


def split_digits() -> Digits:
    """scikit-learn's digits, black where a pixel has at least half of full ink."""
    data = load_digits()
    images = (data.data >= FULL_INK / 2).astype(np.float64)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    train, validation, test = np.split(order, [TRAIN, TRAIN + VALIDATION])
    return Digits(images[train], images[validation], images[test], data.target[test])


def _fitted(digits: Digits, seed: int, effort: Effort, verbose: bool) -> GenProp:
    model = GenProp(
        hidden=LAYERS,
        units=(200,),
        hide=0.5,
        epochs=effort.epochs,
        batch_size=200,
        lr=5e-3,
        schedule="onecycle",
        patience=60,
        device="cpu",
        random_state=seed,
        verbose=int(verbose),
    )
    with one_thread():
        return model.fit(digits.train, validation_data=digits.validation)


@torch.no_grad()
def kl_account(model: GenProp, rows: np.ndarray) -> dict[str, float]:
    """The terms of KL(Q‖P) over whole rows, nats a row; ``kl`` is their sum but for the targets.

    The history has them of rows that are partly hidden, whose entropy nobody knows.
    """
    parameter = next(model.model_.parameters())
    batch = Batch.of(torch.as_tensor(np.tile(rows, (ACCOUNT_DRAWS, 1))))
    account = {"data": -batch.entropy()}
    with seeded(model.random_state):
        for term in TargetPropagation()(model.model_, batch.to(parameter.device, parameter.dtype)):
            account |= {name: value.item() for name, value in term.account.items()}
    kl = sum(value for name, value in account.items() if not name.endswith(".target"))
    return {**account, "kl": kl}


def _account_table(account: Mapping[str, float]) -> Table:
    table = _table(
        "KL(Q‖P) of the training digits, nats a row",
        "KL(Q‖P) is the sum of the first two columns. A layer's target is what the layer above "
        "makes of it, which is that layer's reconstruction; at the top it is the prior.",
    )
    table.show_footer = True
    table.add_column("layer", footer="KL(Q‖P)")
    table.add_column("reconstruction\n-log P(below|h)", justify="right")
    table.add_column("encoder\nlog Q(h|below)", justify="right", footer=f"{account['kl']:.2f}")
    table.add_column("target\n-log P(h|above)", justify="right")
    sizes = (SHAPE[0] * SHAPE[1], *LAYERS)
    for level, (below, above) in enumerate(pairwise(sizes), start=1):
        target = account.get(f"x.{level}.target", account["prior"])
        terms = (account[f"x.{level}.reconstruction"], account[f"x.{level}.entropy"], target)
        table.add_row(f"{level}, {below} to {above}", *(f"{term:.2f}" for term in terms))
    table.add_row("prior, -log P(h)", f"{account['prior']:.2f}")
    table.add_row("data, log Q(x)", "", f"{account['data']:.2f}", end_section=True)
    return table


def _table(title: str, caption: str) -> Table:
    return Table(
        title=title,
        caption=f"{caption}\n",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )


def _scores(model: GenProp, digits: Digits, effort: Effort) -> dict[str, dict[str, float]]:
    """Log P of the test digits, and of their lower halves given the upper ones, by each model."""
    test, upper = digits.test, _upper_half(digits.test)
    mixture = best_mixture(digits.train, digits.validation, effort.components, SPLIT_SEED)
    independent = IndependentBernoulli().fit(digits.train)
    whole = model.log_likelihood(test, samples=effort.samples)
    half = model.log_likelihood(upper, samples=effort.samples)
    scores = {"genprop": _score(whole.log_prob, half.log_prob, whole.log_prob)}
    baselines: dict[str, IndependentBernoulli | BernoulliMixture] = {
        "mixture": mixture,
        "independent": independent,
    }
    for name, baseline in baselines.items():
        scores[name] = _score(baseline.log_prob(test), baseline.log_prob(upper), whole.log_prob)
    scores["genprop"]["khat_above_0.7"] = whole.unreliable
    scores["mixture"]["components"] = mixture.components
    return scores


def _score(whole: np.ndarray, upper: np.ndarray, best: np.ndarray) -> dict[str, float]:
    parts = {"log_prob": whole, "behind": best - whole, "lower_given_upper": whole - upper}
    score: dict[str, float] = {}
    for name, values in parts.items():
        score[name] = float(values.mean())
        score[f"{name}_std_error"] = float(values.std(ddof=1) / np.sqrt(len(values)))
    return score


def _scores_table(scores: Mapping[str, Mapping[str, float]], effort: Effort) -> Table:
    unreliable = scores["genprop"]["khat_above_0.7"]
    table = _table(
        "Log-likelihood of the 397 test digits, nats a row, ± its standard error",
        f"GenProp's log P(x) is a lower bound by importance sampling, {effort.samples:,} samples a "
        f"row; k-hat is above 0.7 in {unreliable:.0%} of the rows.",
    )
    table.add_column("model")
    for heading in ("log P(x)", "behind GenProp", "log P(lower half\n|upper half)"):
        table.add_column(heading, justify="right")
    names = {
        "genprop": f"GenProp {'-'.join(map(str, (64, *LAYERS)))}",
        "mixture": f"mixture of {scores['mixture']['components']:.0f} Bernoullis",
        "independent": "independent Bernoullis",
    }
    for key, name in names.items():
        score = scores[key]
        behind = "" if key == "genprop" else _pair(score, "behind")
        table.add_row(name, _pair(score, "log_prob"), behind, _pair(score, "lower_given_upper"))
    return table


def _pair(score: Mapping[str, float], name: str) -> str:
    return f"{score[name]:.2f} ± {score[f'{name}_std_error']:.2f}"


def _upper_half(rows: np.ndarray) -> np.ndarray:
    """The rows without the lower half of their image."""
    upper = rows.copy()
    upper[:, rows.shape[1] // 2 :] = np.nan
    return upper


def _write_pictures(folder: Path, model: GenProp, digits: Digits, effort: Effort) -> None:
    test = digits.test
    of_each = test[[int(np.argmax(digits.classes == digit)) for digit in range(10)]]
    upper = _upper_half(of_each)
    draws = model.impute(upper, draws=effort.draws, samples=effort.samples)
    samples, means = _samples(model, 64)
    pictures = {
        "samples.png": plots.samples_beside_data(samples, test[:64], SHAPE, means),
        "reconstructions.png": plots.reconstructions(
            test[:40], model.reconstruct(test[:40]), SHAPE
        ),
        "imputations.png": plots.imputations(of_each, ~np.isnan(upper), draws, SHAPE),
        "training.png": plots.training_curves(model.history_),
    }
    for name, figure in pictures.items():
        plots.save_figure(figure, folder / name)


def _samples(model: GenProp, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws from P(x), and the means of P(x|h) that they were drawn from."""
    with seeded(model.random_state):
        path = model.model_.decode(model.model_.prior.sample((n,)))["x"]
    means = path.laws[0].mean
    return path.x.cpu().numpy(), means.cpu().numpy()


def _files_table() -> Table:
    table = Table.grid(padding=(0, 2))
    for name, what in FILES.items():
        table.add_row(f"  {name}", what)
    return table


def _environment() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **{name: version(name) for name in ("genprop", "torch", "scikit-learn", "numpy")},
    }

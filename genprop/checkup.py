"""A check-up of a fitted model's posteriors: chains of hidden values, and whether to trust them."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genprop.chain_plots import rank_plot, trace_plot
from genprop.diagnostics import Diagnosis, diagnose
from genprop.estimator import GenProp
from genprop.kernel import Chain, Kernel, run
from genprop.levels import discrete_levels
from genprop.plots import save_figure
from genprop.posterior import Posterior
from genprop.samplers.gibbs import Gibbs
from genprop.samplers.hamiltonian import HMC
from genprop.seeds import seeded

if TYPE_CHECKING:
    import pandas as pd

ROWS, CHAINS, DRAWS, WARMUP = 8, 4, 500, 500
SHOWN = 6  # coordinates


@dataclass(frozen=True)
class Checkup:
    """Chains of P(h | x_seen) for some rows, and what they say of themselves.

    Attributes:
        posterior: of the rows.
        kernel: what moved the chains.
        chain: their draws.
        warmup: transitions before the first draw.
        diagnosis: whether to trust them.
    """

    posterior: Posterior
    kernel: Kernel[Any]
    chain: Chain[Any]
    warmup: int
    diagnosis: Diagnosis

    def worst(self, count: int = SHOWN) -> "pd.DataFrame":
        """The coordinates that are trusted least, of those that move."""
        return self.diagnosis.coordinates().dropna(subset="rhat").head(count)

    def write_pictures(self, folder: Path) -> list[Path]:
        """Traces and ranks of the worst coordinates, ``trace.png`` and ``rank.png``.

        Where nothing moves there is nothing to draw.
        """
        worst = self.worst().to_dict("records")
        if not worst:
            return []
        folder.mkdir(parents=True, exist_ok=True)
        levels = self.posterior.split(self.chain.draws)
        series = [levels[w["variable"]][:, :, w["row"], w["element"]] for w in worst]
        draws = np.stack([each.cpu().numpy() for each in series], -1)
        titles = [
            f"{w['variable']}[{w['element']}] in row {w['row']}: R-hat {w['rhat']:.3f}, "
            f"ESS {w['ess_bulk']:,.0f}"
            for w in worst
        ]
        pictures = {"trace.png": trace_plot(draws, titles), "rank.png": rank_plot(draws, titles)}
        for name, picture in pictures.items():
            save_figure(picture, folder / name)
        return [folder / name for name in pictures]


def check_up(
    model: GenProp,
    X: Any,
    rows: int = ROWS,
    chains: int = CHAINS,
    draws: int = DRAWS,
    warmup: int = WARMUP,
    random_state: Any = None,
) -> Checkup:
    """Samples the hidden values of the first rows, from starts that the encoders propose.

    Real-valued levels are sampled by ``HMC``; where any level is discrete, all by ``Gibbs``.

    Args:
        model: a fitted estimator.
        X: rows like those it was fitted to, any of their cells missing.
        rows: how many of them.
        chains: of each row.
        draws: of each chain, at least four.
        warmup: transitions before the first draw.
        random_state: seed in place of the estimator's.
    """
    batch = model.batch(X).take(slice(0, rows))
    posterior = Posterior(model.model_, batch, smooth=False)
    discrete = discrete_levels(posterior.floors)
    kernel: Kernel[Any] = Gibbs(posterior) if discrete else HMC(posterior.log_prob)
    with seeded(model.random_state if random_state is None else random_state):
        chain = run(kernel, posterior.start(chains), draws, warmup)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Do not trust")  # the verdict says so itself
        diagnosis = diagnose(chain, posterior)
    return Checkup(posterior, kernel, chain, warmup, diagnosis)

"""Binary sets of the NADE and RWS papers: log P(x) of test rows, beside what was published.

A stack of binary layers, each of them autoregressive or all of independent units, under an
autoregressive prior, trained by reweighted wake-sleep or by target propagation with five paths.
For each set all candidates begin; by validation rows alone (importance sampling with 20 draws) the
worse half of them is dropped again and again, until the last has the rest of the --minutes. Weights
are those of the best validation. Only then are the test rows looked at, once.

Published: Bornschein and Bengio (2015) for RWS-NADE, Larochelle and Murray (2011) for NADE in the
fixed order. Asked for: at most 0.3 nats above RWS-NADE, on each set that it has a figure for.

validation, test   -log P(x), mean over rows, nats, by importance sampling (an upper bound)
k-hat              share of the test rows whose Pareto k-hat is above 0.7
independent        what independent units come to, a floor for any model
"""

import argparse
import copy
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import report
from genprop.conditional import Autoregressive, Bernoulli
from genprop.data import Batch
from genprop.likelihood.importance import importance
from genprop.model import Model
from genprop.priors.autoregressive import AutoregressivePrior
from genprop.rules.rule import Rule
from genprop.rules.target import TargetPropagation
from genprop.rules.wake_sleep import ReweightedWakeSleep
from genprop.stack import Stack
from genprop.threads import one_thread

ASKED = 0.3  # nats above RWS-NADE
PATHS = 5
PATIENCE = 12  # checks without a better one end a candidate's slice
COLUMNS = {
    "set": "set",
    "chosen": "chosen on validation",
    "validation": "validation",
    "test": "test",
    "error": "error",
    "khat": "k-hat",
    "rws_nade": "RWS-NADE",
    "nade": "NADE",
    "independent": "independent",
    "minutes": "minutes",
}


class Published(NamedTuple):
    """Test -log P(x) of papers, nats; None where they have none."""

    rws_nade: float | None
    nade: float | None


# file, and what was published
SETS: dict[str, Published] = {
    "nade_mushrooms": Published(9.71, 9.81),
    "nade_dna": Published(84.26, 84.81),
    "nade_nips": Published(271.11, 273.08),
    "nade_adult": Published(13.16, 13.19),
    "debd_nltcs": Published(None, None),
}


class Candidate(NamedTuple):
    """What is tried.

    Attributes:
        hidden: sizes of the layers.
        chained: whether x and the layers are autoregressive, or of independent units.
        rule: ``rws`` or ``target``.
        lr: learning rate at first.
        decay: of the weights (AdamW), not of biases.
        units: hidden units of an autoregressive law.
    """

    hidden: tuple[int, ...]
    chained: bool
    rule: str
    lr: float
    decay: float
    units: int = 64

    def __str__(self) -> str:
        layers = "-".join(str(n) for n in self.hidden)
        kind = "autoregressive" if self.chained else "independent"
        return f"{layers} {kind}, {self.rule}, lr {self.lr:g}, decay {self.decay:g}"


CANDIDATES = (
    Candidate((50,), True, "rws", 3e-3, 1e-1, 128),
    Candidate((50,), True, "rws", 3e-3, 1.0, 128),
    Candidate((20,), True, "rws", 3e-3, 1e-2),
    Candidate((50,), True, "target", 3e-3, 1e-1),
    Candidate((50,), True, "rws", 3e-3, 4.0),
    Candidate((150, 50), False, "rws", 3e-3, 1e-1),
)
QUICK_CANDIDATES = (
    Candidate((4,), True, "rws", 1e-2, 1e-2, 8),
    Candidate((4, 3), False, "target", 1e-2, 1e-2, 8),
)


class Effort(NamedTuple):
    """How much is done.

    Attributes:
        minutes: of training on each set.
        batch: rows of a mini-batch.
        check: updates between looks at the validation rows.
        draws: of each validation row.
        samples: of each test row, at most.
        paths: of all test rows together, at most.
    """

    minutes: float
    batch: int = 50
    check: int = 250
    draws: int = 20
    samples: int = 200
    paths: int = 1_500_000


class Split(NamedTuple):
    """Rows of zeros and ones."""

    train: Tensor
    validation: Tensor
    test: Tensor


class Attempt:
    """A candidate in training, and the best that it came to.

    Args:
        candidate: what is tried.
        rows: the set.
        effort: how much is done.
    """

    def __init__(self, candidate: Candidate, rows: Split, effort: Effort) -> None:
        self.candidate, self.rows, self.effort = candidate, rows, effort
        self.model, self.rule = built(candidate, rows.train), rule_of(candidate)
        parameters = list(self.model.parameters())
        self.adam = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim > 1], "weight_decay": candidate.decay},
                {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=candidate.lr,
        )
        self.best, self.weights = math.inf, copy.deepcopy(self.model.state_dict())
        self.since, self.cuts, self.updates = 0, 0, 0

    def go_on(self, minutes: float) -> None:
        """Trains for so long; the learning rate falls where validation gets no better."""
        end = time.perf_counter() + 60 * minutes
        while time.perf_counter() < end and self.cuts < 3:
            for _ in range(self.effort.check):
                self._update()
            self._look()

    def _update(self) -> None:
        index = torch.randint(len(self.rows.train), (self.effort.batch,))
        self.adam.zero_grad()
        for term in self.rule(self.model, Batch.of(self.rows.train[index])):
            if term.value.requires_grad:
                term.value.backward()
        self.adam.step()
        self.updates += 1

    def _look(self) -> None:
        validation = Batch.of(self.rows.validation)
        nll = -importance(self.model, validation, self.effort.draws).mean
        if nll < self.best:
            self.best, self.weights = nll, copy.deepcopy(self.model.state_dict())
            self.since = 0
            return
        self.since += 1
        if self.since >= PATIENCE:
            self.since, self.cuts = 0, self.cuts + 1
            self.model.load_state_dict(self.weights)
            for group in self.adam.param_groups:
                group["lr"] /= 3


@one_thread()
def main(argv: Sequence[str] | None = None) -> None:
    """Trains on each set, prints the table, writes the JSON."""
    arguments = parse(argv)
    effort, candidates = Effort(arguments.minutes), CANDIDATES
    if arguments.quick:
        effort = Effort(0.02, check=3, draws=5, samples=5, paths=10_000)
        candidates = QUICK_CANDIDATES
    sets = {name: read(arguments.data, name) for name in arguments.set}
    fresh = [measure(name, split, effort, candidates) for name, split in sets.items()]
    earlier, commands = report.kept(arguments.json, arguments.quick)
    rows = report.merged(earlier, fresh, ["set"])
    result = report.Report(
        benchmark="binary",
        quick=arguments.quick,
        command=arguments.command,
        seeds=[0],
        rows=rows,
        bars=judge(rows),
        more={
            "effort": effort._asdict(),
            "candidates": [str(candidate) for candidate in candidates],
            "threads_used": 1,
            "commands": [*commands, arguments.command],
        },
    )
    result.show(COLUMNS)
    result.write(arguments.json)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    made = report.parser("binary", __doc__)
    made.add_argument("--set", action="append", choices=list(SETS), help="only these; repeatable")
    made.add_argument("--minutes", type=float, default=10, help="of training on each set (10)")
    arguments = report.parse(made, argv)
    if arguments.data is None:
        made.error("--data DIR is the folder of the sets, such as nade_dna.npz")
    wanted = arguments.set or list(SETS)
    arguments.set = [name for name in wanted if (arguments.data / f"{name}.npz").exists()]
    if not arguments.set:
        made.error(f"{arguments.data} holds none of {', '.join(f'{n}.npz' for n in wanted)}")
    return arguments


def read(folder: Path, name: str) -> Split:
    """A set, packed by ``numpy.packbits``."""
    with np.load(folder / f"{name}.npz") as arrays:
        width = int(arrays["n_features"])
        names = [n for key in Split._fields for n in arrays.files if n.startswith(key[:5])]
        parts = [np.unpackbits(arrays[n], axis=1)[:, :width] for n in names]
    return Split(*(torch.from_numpy(part).float() for part in parts))


def measure(name: str, rows: Split, effort: Effort, candidates: Sequence[Candidate]) -> report.Row:
    """The row of a set."""
    torch.manual_seed(0)
    began = time.perf_counter()
    chosen, others = best_of([Attempt(c, rows, effort) for c in candidates], effort.minutes, name)
    minutes = (time.perf_counter() - began) / 60
    samples = max(1, min(effort.samples, effort.paths // len(rows.test)))
    chosen.model.load_state_dict(chosen.weights)
    found = importance(chosen.model.eval(), Batch.of(rows.test), samples)
    report.tell(f"{name}: test {-found.mean:.3f}")
    return {
        "set": name,
        "chosen": str(chosen.candidate),
        "validation": chosen.best,
        "test": -found.mean,
        "error": found.mean_std_error,
        "khat": found.unreliable,
        "samples": samples,
        "updates": chosen.updates,
        **SETS[name]._asdict(),
        "independent": independent(rows),
        "minutes": minutes,
        "all_validations": others,
    }


def best_of(
    attempts: Sequence[Attempt], minutes: float, name: str
) -> tuple[Attempt, Mapping[str, float]]:
    """The best by validation, half of the candidates being dropped after every round.

    Returns:
        The attempt, and what every candidate came to when it was last looked at.
    """
    rounds = 1 + math.ceil(math.log2(len(attempts)))
    left, seen = list(attempts), {}
    for _ in range(rounds):
        for attempt in left:
            attempt.go_on(minutes / rounds / len(left))
            seen[str(attempt.candidate)] = attempt.best
            report.tell(f"{name}, {attempt.candidate}: {attempt.best:.3f} on validation rows")
        left = sorted(left, key=lambda each: each.best)[: -(-len(left) // 2)]
    return left[0], seen


def built(candidate: Candidate, train: Tensor) -> Model:
    """The stack, its bottom biases at what independent units would have."""
    pixels = train.shape[1]
    visible = Autoregressive(pixels, candidate.units) if candidate.chained else Bernoulli(pixels)
    latent = "autoregressive" if candidate.chained else "bernoulli"
    units = () if candidate.chained else (128,)
    stack = Stack.build(visible, candidate.hidden, latent, units=units)
    model = Model(stack, AutoregressivePrior(candidate.hidden[-1], candidate.units))
    with torch.no_grad():
        share = (train.sum(0) + 0.5) / (len(train) + 1)
        last = [m for m in stack[0].decoder.modules() if isinstance(m, torch.nn.Linear)][-1]
        # of an autoregressive family the biases of x come last
        last.bias[-pixels:] = share.logit()
    return model


def rule_of(candidate: Candidate) -> Rule:
    return ReweightedWakeSleep(PATHS) if candidate.rule == "rws" else TargetPropagation(PATHS)


def independent(rows: Split) -> float:
    """Test -log P(x) of independent units, their shares counted with half a case more."""
    share = (rows.train.sum(0) + 0.5) / (len(rows.train) + 1)
    log_p = torch.where(rows.test > 0, share.log(), (1 - share).log())
    return -float(log_p.sum(1).mean())


def judge(rows: Sequence[report.Row]) -> list[report.Row]:
    """How far each set is above RWS-NADE."""
    return [
        report.at_most(f"test -log P(x) above RWS-NADE's, {row['set']}, nats", above, ASKED)
        for row in rows
        for above in [None if row["rws_nade"] is None else row["test"] - row["rws_nade"]]
    ]


if __name__ == "__main__":
    main()

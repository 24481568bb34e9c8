"""Quadrants of digits given other quadrants: three kinds of law, and how far they get."""

import copy
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from benchmarks import report
from benchmarks.structured_nets import InOrder
from genprop.conditional import Bernoulli, Conditional, Gaussian
from genprop.data import Batch
from genprop.distributions import Product, Scale
from genprop.likelihood.importance import importance
from genprop.model import Model
from genprop.nets import MLP
from genprop.prior import DensityPrior
from genprop.rules.target import TargetPropagation
from genprop.stack import Stack

SIDE = 28
PIXELS = SIDE * SIDE
HELD = 10_000  # of the training digits, to choose by
SAMPLES = 100
FEW = 10  # samples where contenders are compared
CODE = 50


class Published(NamedTuple):
    """Test -log P(rest | given) of others, nats, by samples of the conditional prior."""

    pyro: float
    pyro_net: float
    sohn: float
    asked: float


PUBLISHED = {
    1: Published(71.8, 100.4, 68.6, 68.0),
    2: Published(51.0, 61.9, 45.6, 45.0),
    3: Published(24.2, 25.4, 21.0, 20.9),
}


class Effort(NamedTuple):
    """How much is done.

    Attributes:
        minutes: of training each contender, of the processor's time.
        held: rows for choosing.
        test: rows to test on.
        updates: the most that are done.
    """

    minutes: float
    held: int = 2000
    test: int = 10_000
    updates: int = 10**9


class Digits(NamedTuple):
    """Rows of pixels: probabilities to train by, zeros and ones to choose and to test by."""

    train: Tensor
    held: Tensor
    test: Tensor


class Contender(nn.Module, ABC):
    """A law of the unknown pixels given the known ones, and how it learns."""

    @abstractmethod
    def begin(self, log_odds: Tensor) -> None:
        """Starts from the pixels' own log-odds, ``(pixels,)``."""

    @abstractmethod
    def loss(self, x: Tensor) -> Tensor:
        """What is descended: a mean over rows, with its graph."""

    @abstractmethod
    def cost(self, x: Tensor) -> Tensor:
        """What contenders are compared by, -log P(rest | given), a mean over rows."""

    @abstractmethod
    def estimates(self, x: Tensor) -> dict[str, float]:
        """-log P(rest | given), means over rows: ``sampled``, as published, and ``nll``."""


class Exact(Contender):
    """A law whose density is known: what it descends is what it costs."""

    def cost(self, x: Tensor) -> Tensor:
        return self.loss(x)

    def estimates(self, x: Tensor) -> dict[str, float]:
        nll = _in_parts(x, self.cost)
        return {"sampled": nll, "nll": nll}


class Factorial(Exact):
    """P(rest | given) of independent pixels, by a perceptron: the published deterministic net."""

    def __init__(self, known: Tensor) -> None:
        super().__init__()
        given, rest = known.flatten().nonzero()[:, 0], (~known).flatten().nonzero()[:, 0]
        self.register_buffer("given", given)
        self.register_buffer("rest", rest)
        net = MLP(len(given), len(rest), (500, 500), "relu")
        self.law = Conditional(net, Bernoulli(len(rest)))

    def begin(self, log_odds: Tensor) -> None:
        _last(self).bias.data.copy_(log_odds[self.get_buffer("rest")])

    def loss(self, x: Tensor) -> Tensor:
        given, rest = self.get_buffer("given"), self.get_buffer("rest")
        log_p: Tensor = self.law(x[:, given]).log_prob(x[:, rest])
        return -log_p.mean()


class Ordered(Exact):
    """P(rest | given) = ∏_j P(x_j | x_<j, given): exact, so that there is nothing to sample."""

    def __init__(self, known: Tensor) -> None:
        super().__init__()
        net = InOrder(known)
        self.net, self.law = net, Conditional(net, Bernoulli(len(net.rest)))

    def begin(self, log_odds: Tensor) -> None:
        self.net.base.bias.data.copy_(log_odds[self.net.rest])

    def loss(self, x: Tensor) -> Tensor:
        log_p: Tensor = self.law(x).log_prob(x[:, self.net.rest])
        return -log_p.mean()


class GivenPrior(DensityPrior):
    """P(h | u) of codes that begin with u, which is always given: N(h; μ(u), σ(u)²)."""

    discrete = False

    def __init__(self, given: int, code: int, units: Sequence[int]) -> None:
        super().__init__()
        self.given, self.code, self.elements = given, code, given + code
        family = Gaussian(code, scale="net")
        self.law = Conditional(MLP(given, family.outputs, units, skip=True), family)

    def log_prob(self, h: Tensor, seen: Tensor | None = None) -> Tensor:
        u, code = h.split((self.given, self.code), -1)
        law: Product = self.law(u)
        return law.log_prob(code)

    def loss(self, h: Tensor, seen: Tensor | None = None) -> Tensor:
        return -self.log_prob(h, seen)

    def sample(self, shape: Sequence[int]) -> Tensor:
        raise NotImplementedError("codes are drawn given what is known: law(u).sample()")

    def reconstruct(self, h: Tensor, scale: Scale) -> Tensor:
        raise NotImplementedError("no rule that is used here asks for it")

    def condition(self, h: Tensor, seen: Tensor) -> Distribution:
        raise NotImplementedError("what is given is always whole")

    def refit(self, codes: Tensor) -> None:
        raise NotImplementedError("it learns with the layers")


class Latent(Contender):
    """The conditional VAE: P(h | given), P(rest | h) and Q(h | all pixels), a genprop model.

    The encoder is told all pixels, the decoder explains the unknown ones only.
    """

    def __init__(self, known: Tensor, units: Sequence[int] = (300,)) -> None:
        super().__init__()
        self.register_buffer("given", known.flatten().nonzero()[:, 0])
        self.register_buffer("unknown", (~known).flatten())
        given = int(known.sum())
        # the affine path lets the code be used from the first
        image = Stack.build(Bernoulli(PIXELS), (CODE,), units=units, skip=True)
        prior = GivenPrior(given, CODE, units)
        self.model = Model({"given": Stack(elements=given), "image": image}, prior)
        self.rule = TargetPropagation(1)

    def begin(self, log_odds: Tensor) -> None:
        _last(dict(self.model.named_stacks())["image"][0].decoder).bias.data.copy_(log_odds)

    def batch(self, x: Tensor) -> Batch:
        seen = self.get_buffer("unknown").expand(x.shape)
        rows = {"given": x[:, self.get_buffer("given")], "image": x}
        everything: dict[str, Tensor | None] = {"given": None, "image": None}
        return Batch(rows, {"given": None, "image": seen}, everything)

    def loss(self, x: Tensor) -> Tensor:
        return torch.stack([term.value for term in self.rule(self.model, self.batch(x))]).sum()

    def cost(self, x: Tensor) -> Tensor:
        return torch.tensor(-importance(self.model, self.batch(x), FEW).mean)

    def estimates(self, x: Tensor) -> dict[str, float]:
        weighed = importance(self.model, self.batch(x), SAMPLES)
        return {"sampled": _in_parts(x, self.sampled), "nll": -weighed.mean}

    @torch.no_grad()
    def sampled(self, x: Tensor) -> Tensor:
        """-log (1/S) Σ_s P(rest | h_s), h_s ~ P(h | given), a mean over rows."""
        batch, prior = self.batch(x), self.model.prior
        assert isinstance(prior, GivenPrior)
        h = prior.law(batch.x["given"]).sample((SAMPLES,))
        decoder = dict(self.model.named_stacks())["image"][0].decoder
        log_p = torch.stack([decoder(each).log_prob(x, batch.seen["image"]) for each in h])
        return (math.log(SAMPLES) - log_p.logsumexp(0)).mean()


CONTENDERS: dict[str, tuple[Callable[[Tensor], Contender], float]] = {  # and their learning rates
    "pixels in order": (Ordered, 3e-3),
    "latent": (Latent, 2e-3),
    "independent pixels": (Factorial, 1e-3),
}


def setting(quadrants: int) -> str:
    """What a number of quadrants is called."""
    return f"{quadrants} given"


def known_pixels(quadrants: int) -> Tensor:
    """True where a pixel is given: the lower left, then the upper left, then the upper right."""
    known, half = torch.zeros(SIDE, SIDE, dtype=torch.bool), SIDE // 2
    known[half:, :half] = True
    known[:half, :half] = quadrants >= 2
    known[:half, half:] = quadrants >= 3
    return known


def read(folder: Path | None, effort: Effort) -> Digits:
    """MNIST, rows to choose and to test by drawn once from the grey values; or seeded noise."""
    torch.manual_seed(1)
    path = None if folder is None else folder / "mnist.npz"
    if path is None or not path.exists():
        grey, test = torch.rand(400, PIXELS) ** 3, torch.rand(100, PIXELS) ** 3
        return Digits(grey[:300], torch.bernoulli(grey[300:]), torch.bernoulli(test))
    with np.load(path) as arrays:
        parts = [arrays[name].reshape(-1, PIXELS) for name in ("x_train", "x_test")]
    grey, test = (torch.from_numpy(part).float() / 255 for part in parts)
    held = torch.bernoulli(grey[-HELD:])[: effort.held]
    return Digits(grey[:-HELD], held, torch.bernoulli(test)[: effort.test])


def measure(name: str, quadrants: int, rows: Digits, effort: Effort) -> report.Row:
    """Trains a contender and tests it."""
    torch.manual_seed(0)
    make, lr = CONTENDERS[name]
    contender = make(known_pixels(quadrants))
    contender.begin(rows.train.mean(0).clamp(1e-3, 1 - 1e-3).logit())
    start = time.perf_counter()
    held, updates = train(contender, rows, effort, lr)
    minutes = (time.perf_counter() - start) / 60
    with torch.no_grad():
        found = contender.eval().estimates(rows.test)
    report.tell(f"{setting(quadrants)}, {name}: {found}, {updates} updates")
    return {
        "part": "quadrants",
        "setting": setting(quadrants),
        "contender": name,
        "held": held,
        **found,
        **PUBLISHED[quadrants]._asdict(),
        "updates": updates,
        "minutes": minutes,
    }


def train(contender: Contender, rows: Digits, effort: Effort, lr: float) -> tuple[float, int]:
    """By Adam, the step falling as a cosine over the time there is; keeps the best weights.

    Pixels are drawn anew at every visit.

    Returns:
        What the rows for choosing cost, and the number of updates.
    """
    adam = torch.optim.AdamW(contender.parameters(), lr=lr, weight_decay=1e-2)
    # the processor's time: what else runs on the machine does not shorten training
    begun, done, updates, looks = time.process_time(), 0.0, 0, 0
    best, weights = math.inf, copy.deepcopy(contender.state_dict())
    while done < 1 and updates < effort.updates:
        for group in adam.param_groups:
            group["lr"] = lr * min(1, 0.02 + 10 * done) * 0.5 * (1 + math.cos(math.pi * done))
        x = torch.bernoulli(rows.train[torch.randint(len(rows.train), (64,))])
        adam.zero_grad()
        contender.loss(x).backward()
        nn.utils.clip_grad_norm_(contender.parameters(), 50.0)
        adam.step()
        updates += 1
        done = (time.process_time() - begun) / (60 * effort.minutes)
        if done > (looks + 1) / 10 or done >= 1 or updates == effort.updates:
            looks, cost = looks + 1, _held_cost(contender, rows.held)
            if cost < best:
                best, weights = cost, copy.deepcopy(contender.state_dict())
    contender.load_state_dict(weights)
    return best, updates


@torch.no_grad()
def _held_cost(contender: Contender, held: Tensor) -> float:
    contender.eval()
    cost = _in_parts(held, contender.cost)
    contender.train()
    return cost


@torch.no_grad()
def _in_parts(x: Tensor, mean: Callable[[Tensor], Tensor]) -> float:
    """The mean over rows of what is a mean over a few of them."""
    return sum(len(part) * mean(part).item() for part in x.split(200)) / len(x)


def _last(module: nn.Module) -> nn.Linear:
    """The last affine map that has a bias."""
    return [m for m in module.modules() if isinstance(m, nn.Linear) and m.bias is not None][-1]


def judge(rows: Sequence[report.Row]) -> list[report.Row]:
    """Of each setting the contender that is best on the rows for choosing."""
    bars = []
    for quadrants, published in PUBLISHED.items():
        mine = [r for r in rows if (r["part"], r["setting"]) == ("quadrants", setting(quadrants))]
        best = min(mine, key=lambda row: row["held"], default=None)
        name = f"-log P(rest | {quadrants} given), sampled as published, nats"
        value = None if best is None else best["sampled"]
        holds = None if value is None else value < published.asked
        bars.append(report.bar(name, value, f"< {published.asked:g}", holds))
    return bars

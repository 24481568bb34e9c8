"""The training loop of feed-forward networks; a rule's terms go backward as they come."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from genprop.credit.network import CreditNetwork
from genprop.credit.rule import CreditRule, PreparedRule, RecallingRule, predict
from genprop.optimizers import SCHEDULES, make_optimizer
from genprop.rules.rule import Term
from genprop.train import Row, Trainer, start_fabric

Callback = Callable[[CreditNetwork, CreditRule, Row], Row | None]
"""Called after every epoch; what it returns is added to the epoch's row."""


@dataclass(frozen=True)
class CreditTrainer:
    """How a network and its rule are trained.

    Attributes:
        how: epochs, batch size, optimizer, learning rate, schedule, clipping by layer, device and
            precision of the network; ``hide``, ``compile``, ``patience`` and ``verbose`` do not
            apply.
        feedback: optimizer, learning rate and schedule of the rule's own weights; None takes those
            of ``how``.
        rates: factor on the learning rate of each block; None is 1 everywhere.
        warmup: epochs in which only the rule's own weights learn, before the first update.
        minutes: training ends with the update at which so many have passed; the schedule runs over
            the minutes, where those are over before the epochs.

    >>> CreditTrainer(Trainer(epochs=2, lr=0.1), rates=(1.0, 0.5)).rates
    (1.0, 0.5)
    """

    how: Trainer = field(default_factory=lambda: Trainer(epochs=10, batch_size=100))
    feedback: Trainer | None = None
    rates: Sequence[float] | None = None
    warmup: int = 0
    minutes: float = math.inf

    def __post_init__(self) -> None:
        if self.warmup < 0 or not self.minutes > 0:
            raise ValueError(
                f"warmup counts epochs and minutes are positive, got {self.warmup} and "
                f"{self.minutes}"
            )

    def fit(
        self,
        network: CreditNetwork,
        rule: CreditRule,
        x: Tensor,
        y: Tensor,
        validation: tuple[Tensor, Tensor] | None = None,
        callbacks: Iterable[Callback] = (),
    ) -> list[Row]:
        """Trains network and rule in place.

        Args:
            network: what is trained.
            rule: how credit is assigned.
            x: rows.
            y: a class or a vector for each row.
            validation: rows x and y that are only looked at.
            callbacks: called after every epoch with the network, the rule and the epoch's row.

        Returns:
            A row an epoch: the mean ``loss`` (and whatever else the rule accounts for) of the
            training batches, ``validation`` loss and ``accuracy``, updates, seconds.

        Raises:
            ValueError: data, rule or rates do not fit the network.
            FloatingPointError: a loss or a weight is no longer finite.
        """
        network.check(x, y)
        rule.check(network)
        if self.rates is not None and len(self.rates) != len(network.layers):
            raise ValueError(
                f"rates need one factor for each of {len(network.layers)} blocks, got "
                f"{len(self.rates)}"
            )
        run = _Run(self, network, rule, (x, y))
        return list(run.epochs(validation, tuple(callbacks)))


class _Run:
    """One training run: its optimizers and its clock."""

    def __init__(
        self,
        trainer: CreditTrainer,
        network: CreditNetwork,
        rule: CreditRule,
        data: tuple[Tensor, Tensor],
    ) -> None:
        how = trainer.how
        self.trainer, self.network, self.rule = trainer, network, rule
        self.fabric = start_fabric(how.device, how.precision)
        self.dtype = torch.float64 if how.precision == "64" else torch.float32
        network.to(self.fabric.device, self.dtype)
        rule.to(self.fabric.device, self.dtype)
        self.x, self.y = (self._here(part) for part in data)
        self.size = how.batch_size if isinstance(how.batch_size, int) else 100
        rates = trainer.rates or [1.0] * len(network.layers)
        groups = [
            {"params": list(block.parameters()), "rate": rate}
            for block, rate in zip(network.layers, rates, strict=True)
        ]
        own = [p for p in rule.parameters() if p.requires_grad]
        self.forward = _Descent(how, groups)
        self.own = _Descent(trainer.feedback or how, [{"params": own, "rate": 1.0}] if own else [])
        self.start = time.perf_counter()
        self.updates = 0

    def epochs(
        self, validation: tuple[Tensor, Tensor] | None, callbacks: Sequence[Callback]
    ) -> Iterator[Row]:
        """Trains epoch after epoch, until they or the minutes are over."""
        for _ in range(self.trainer.warmup):
            for index in self._batches():
                self._prepare(self.x[index], 0.0)
        for epoch in range(self.trainer.how.epochs):
            row: Row = {"epoch": epoch + 1.0, **self._epoch(epoch)}
            if validation is not None:
                row |= self._judge(validation)
            row |= {"updates": float(self.updates), "seconds": time.perf_counter() - self.start}
            for callback in callbacks:
                row |= callback(self.network, self.rule, row) or {}
            yield row
            if self._late():
                return

    def _here(self, part: Tensor) -> Tensor:
        part = part.to(self.fabric.device)
        return part.to(self.dtype) if part.dtype.is_floating_point else part

    def _batches(self) -> Sequence[Tensor]:
        order = torch.randperm(len(self.x), device=self.x.device)
        return list(order.split(self.size))

    def _late(self) -> bool:
        return self._spent() >= 1

    def _spent(self) -> float:
        """The share of the minutes that is gone."""
        return (time.perf_counter() - self.start) / (60 * self.trainer.minutes)

    def _epoch(self, epoch: int) -> Row:
        batches = self._batches()
        self.network.train()
        sums: dict[str, float] = {}
        rows = 0
        for number, index in enumerate(batches):
            share = (epoch + number / len(batches)) / self.trainer.how.epochs
            account = self._update(index, min(max(share, self._spent()), 1.0))
            rows += len(index)
            for name, value in account.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(index)
            if self._late():
                break
        self._check_finite(sums, epoch)
        return {name: value / rows for name, value in sums.items()}

    def _update(self, index: Tensor, done: float) -> dict[str, Tensor]:
        """One step of the optimizers on one mini-batch."""
        x, y = self.x[index], self.y[index]
        if isinstance(self.rule, RecallingRule):
            self.rule.recall(index, len(self.x))
        self._prepare(x, done)
        self.forward.clear()
        self.own.clear()
        account: dict[str, Tensor] = {}
        with self.fabric.autocast():
            for term in self.rule(self.network, x, y):
                self._backward(term)
                account |= term.account
        self._clip()
        self.forward.step(done)
        self.own.step(done)
        self.updates += 1
        return account

    def _prepare(self, x: Tensor, done: float) -> None:
        if not isinstance(self.rule, PreparedRule):
            return
        for _ in range(self.rule.rounds):
            self.own.clear()
            with self.fabric.autocast():
                for term in self.rule.prepare(self.network, x):
                    self._backward(term)
            self.own.step(done)

    def _backward(self, term: Term) -> None:
        if term.parts and term.value.requires_grad:
            self.fabric.backward(term.value)

    def _clip(self) -> None:
        if self.trainer.how.clip is not None:
            for block in self.network.layers:
                nn.utils.clip_grad_norm_(list(block.parameters()), self.trainer.how.clip)

    @torch.no_grad()
    def _judge(self, validation: tuple[Tensor, Tensor]) -> Row:
        x, y = (self._here(part) for part in validation)
        loss, right = evaluate(self.network, self.rule, x, y)
        return {"validation": loss, "accuracy": right}

    def _check_finite(self, sums: dict[str, float], epoch: int) -> None:
        bad = [name for name, value in sums.items() if not math.isfinite(value)]
        modules = (("network", self.network), ("rule", self.rule))
        bad += [
            f"parameter {name} of the {which}"
            for which, module in modules
            for name, p in module.named_parameters()
            if not torch.isfinite(p).all()
        ]
        if bad:
            raise FloatingPointError(
                f"{bad[0]} is no longer finite in epoch {epoch + 1}; lower the learning rate, or "
                f"set clip=1.0"
            )


class _Descent:
    """An optimizer whose groups have rates of their own; without parameters it does nothing."""

    def __init__(self, how: Trainer, groups: list[dict[str, Any]]) -> None:
        self.how = how
        self.optimizer = None
        if groups:
            self.optimizer = make_optimizer(how.optimizer, groups, how.lr, how.weight_decay)
        self.schedule = SCHEDULES.get(str(how.schedule)) or how.schedule

    def clear(self) -> None:
        """No gradient is left."""
        if self.optimizer is not None:
            self.optimizer.zero_grad()

    def step(self, done: float) -> None:
        """One step, at this share of training."""
        if self.optimizer is None:
            return
        factor = self.how.lr * self.schedule(done)  # type: ignore[operator]
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["rate"]
        self.optimizer.step()


@torch.no_grad()
def evaluate(
    network: CreditNetwork,
    rule: CreditRule,
    x: Tensor,
    y: Tensor,
    passes: int = 1,
    rows_at_once: int = 1000,
) -> tuple[float, float]:
    """The mean cost and, for classes, the share of rows whose largest output is right.

    Args:
        network: what was trained.
        rule: what trained it, which may predict in its own way.
        x: rows.
        y: a class or a vector for each.
        passes: how often a stochastic network is asked.
        rows_at_once: how many rows are predicted together.
    """
    loss, right = 0.0, math.nan if y.dtype.is_floating_point else 0.0
    for start in range(0, len(x), rows_at_once):
        part = slice(start, start + rows_at_once)
        output = predict(network, rule, x[part], passes)
        loss += float(network.loss(output, y[part]).double().sum())
        if not y.dtype.is_floating_point:
            right += float((output.argmax(-1) == y[part]).sum())
    return loss / len(x), right / len(x)

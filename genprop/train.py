"""The one training loop: it sends a rule's terms backward as they come."""

import math
import time
import warnings
from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from genprop.codes import tell_prior
from genprop.data import Batch, Share, shares
from genprop.model import Model
from genprop.names import check_names
from genprop.nets import fade, frozen
from genprop.optimizers import OPTIMIZERS, SCHEDULES, Optimizer, Schedule, make_optimizer
from genprop.progress import Progress
from genprop.rules.practice import practised
from genprop.rules.rule import Rule, Term
from genprop.tables.columns import variable_sizes
from genprop.validation import mean_bound
from genprop.visits import visits

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Row = dict[str, float]

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = {"32": "32-true", "64": "64-true", "bf16-mixed": "bf16-mixed"}
RETRIES = 3
UPDATES = 20
COPY = 50  # updates between copies of good weights, at least


@dataclass(frozen=True)
class Trainer:
    """How a model is trained.

    Attributes:
        epochs: visits of the data.
        batch_size: rows of a mini-batch; ``"auto"`` gives 20 updates an epoch, but no fewer than 16
            rows and no more than 128, so that little data is not trained too little.
        lr: learning rate.
        optimizer: ``"adam"``, ``"adamw"``, ``"sgd"``, ``"rmsprop"``, or any callable
            ``(parameters, lr=…)`` that makes a torch optimizer.
        weight_decay: what the optimizer is told of it, or None for its own default; AdamW takes
            ``lr * weight_decay`` of every parameter away in an update.
        schedule: factor on the learning rate: ``"constant"``, ``"cosine"``, ``"onecycle"``, or a
            function of the share of training that is done, between 0 and 1.
        clip: largest norm of each layer's gradient, or None.
        hide: probability that a row shows only a random part of what is seen of it, the part's
            size uniform: it teaches encoders every pattern of missing cells. Or by modality, that
            a row hides it whole: it teaches them what will be asked (``Batch.hide``).
        explain: whether decoders explain what was hidden from encoders, too.
        practise: whether rows with hidden parts teach encoders alone, decoders and prior learning
            of the same rows whole, which takes twice as long (``practised``).
        balance: least share of the visits that show each modality (``visits``).
        patience: epochs without a better validation bound before it stops, or None.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
        precision: ``"32"``, ``"64"`` or ``"bf16-mixed"``.
        compile: whether nets go through torch.compile.
        verbose: 0 is silent; 1 shows a progress bar on a terminal.
    """

    epochs: int = 200
    batch_size: int | str = "auto"
    lr: float = 1e-3
    optimizer: str | Optimizer = "adam"
    weight_decay: float | None = None
    schedule: str | Schedule = "constant"
    clip: float | None = None
    hide: Share = 0.0
    explain: bool = False
    practise: bool = False
    balance: float = 0.0
    patience: int | None = 20
    device: str = "auto"
    precision: str = "32"
    compile: bool = False
    verbose: int = 1

    def __post_init__(self) -> None:
        _check(self)

    def fit(
        self, model: Model, rule: Rule, data: Batch, validation: Batch | None = None
    ) -> list[Row]:
        """Trains the model in place and leaves the best weights in it.

        Args:
            model: what is trained; it stays on the device it was trained on.
            rule: how credit is assigned.
            data: all rows.
            validation: rows whose bound decides which weights are best (``mean_bound``).

        Returns:
            One row an epoch: the bounds of training and validation data, and the account of
            KL(Q‖P) by layer, in nats a row; learning rate; seconds.

        Raises:
            ValueError: rule or data do not fit the model.
            FloatingPointError: the loss stayed non-finite though the step was lowered.
        """
        model.check(data)
        rule.check(model)
        if isinstance(self.hide, Mapping):
            check_names("hide", self.hide, data.x)
        if validation is not None:
            model.check(validation)
        with Progress(self.epochs, self.verbose) as progress:
            run = _Run(self, model, rule, data, validation)
            try:
                for row in run.epochs():
                    progress.show(row)
            except KeyboardInterrupt:
                warnings.warn(
                    f"training was interrupted in epoch {len(run.history) + 1}; the model keeps "
                    f"its best weights so far",
                    stacklevel=2,
                )
            finally:
                run.restore_best()
        return run.history


@dataclass
class _Best:
    bound: float = math.inf
    epoch: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)


class _Run:
    """One training run: its optimizer, its history, its best weights."""

    def __init__(
        self, how: Trainer, model: Model, rule: Rule, data: Batch, validation: Batch | None
    ) -> None:
        self.how, self.model, self.rule = how, model, rule
        self.fabric = start_fabric(how.device, how.precision)
        dtype = torch.float64 if how.precision == "64" else torch.float32
        model.to(self.fabric.device, dtype)
        self.data = data.to(self.fabric.device, dtype)
        self.validation = validation and validation.to(self.fabric.device, dtype)
        if how.compile:
            _compile(model)
        learned = [p for p in model.parameters() if p.requires_grad]
        # torch's optimizers refuse to have nothing to do
        learned = learned or [nn.Parameter(torch.zeros_like(model.like))]
        self.optimizer = make_optimizer(
            how.optimizer, [{"params": learned}], how.lr, how.weight_decay
        )
        self.stepper: Any = self.fabric.setup_optimizers(self.optimizer)
        self.schedule = SCHEDULES.get(str(how.schedule)) or how.schedule
        self.variables = variables(model)
        self.negentropy = math.nan if any(shares(how.hide)) else -data.entropy()
        self.batch_size = _batch_size(how.batch_size, data.rows)
        # a copy costs as much as an update
        self.rhythm = math.ceil(COPY * self.batch_size / data.rows)
        self.damping = 1.0
        self.best = _Best()
        self.history: list[Row] = []
        self.seed = int(torch.randint(2**31, ()))

    def epochs(self) -> Iterator[Row]:
        """Trains epoch after epoch, and stops early where the validation bound stays."""
        while len(self.history) < self.how.epochs:
            tell_prior(self.model, self.data)
            row = self._sound_epoch()
            self.history.append(row)
            self._keep_best(row)
            yield row
            patience = self.how.patience
            waited = len(self.history) - self.best.epoch
            if self.validation is not None and patience is not None and waited >= patience:
                return

    def restore_best(self) -> None:
        """Puts the best weights back, where a validation bound told which they are."""
        self.model.eval()
        if self.best.weights:
            self.model.load_state_dict(self.best.weights)

    def _sound_epoch(self) -> Row:
        """An epoch without a non-finite value; after one it goes back and lowers the step."""
        start = time.perf_counter()
        if len(self.history) % self.rhythm == 0:
            self.good = _snapshot(self.model), deepcopy(self.optimizer.state_dict())
        for _ in range(RETRIES + 1):
            row, trouble = self._epoch()
            row["seconds"] = time.perf_counter() - start
            if not trouble:
                return row
            self.model.load_state_dict(self.good[0])
            self.optimizer.load_state_dict(deepcopy(self.good[1]))
            self.damping *= 0.5
            warnings.warn(
                f"{trouble}; went back to the last good weights and halved the learning rate to "
                f"{self.how.lr * self.damping:.3g}",
                stacklevel=5,
            )
        raise FloatingPointError(
            f"{trouble}, and again after {RETRIES} times half the step; the last good weights are "
            f"kept. Scale the data, lower lr, or set clip=1.0"
        )

    def _epoch(self) -> tuple[Row, str]:
        """One visit of the data: what it came to, and what was not finite, if anything."""
        batches = visits(self.data, self.how.balance).split(self.batch_size)
        keys: list[str] = []
        values: list[Tensor] = []
        _train(self.model)
        fade(self.model, len(self.history) / self.how.epochs)
        for number, index in enumerate(batches):
            account = self._update(index, (len(self.history) + number / len(batches)))
            keys = list(account)
            values += account.values()
        table = torch.stack(values).view(len(batches), len(keys)).cpu().double()
        trouble = _trouble(table, keys, len(self.history) + 1) or _broken(self.model)
        sizes = torch.tensor([len(b) for b in batches], dtype=torch.float64)
        means = dict(zip(keys, ((sizes @ table) / sizes.sum()).tolist(), strict=True))
        return self._row(means), trouble

    def _update(self, index: Tensor, epochs_done: float) -> dict[str, Tensor]:
        """One step of the optimizer on one mini-batch."""
        batch = self.data.take(index.to(self.fabric.device))
        self.optimizer.zero_grad()
        account: dict[str, Tensor] = {}
        with self.fabric.autocast():
            for term in self._terms(batch):
                self._backward(term)
                account.update(term.account)
        self._clip()
        factor = self.schedule(epochs_done / self.how.epochs)  # type: ignore[operator]
        for group in self.optimizer.param_groups:
            group["lr"] = self.how.lr * self.damping * factor
        self.stepper.step()
        return account

    def _terms(self, batch: Batch) -> Iterator[Term]:
        how = self.how
        if not any(shares(how.hide)):
            return self.rule(self.model, batch)
        hidden = batch.hide(how.hide, self.variables, how.explain)
        if how.practise:
            return practised(self.rule, self.model, batch, hidden)
        return self.rule(self.model, hidden)

    def _backward(self, term: Term) -> None:
        if term.parts and term.value.requires_grad:
            self.fabric.backward(term.value)

    def _clip(self) -> None:
        if self.how.clip is not None:
            for module in _layers(self.model):
                nn.utils.clip_grad_norm_(list(module.parameters()), self.how.clip)

    def _row(self, means: Row) -> Row:
        kl = sum(v for k, v in means.items() if k != "bound" and not k.endswith(".target"))
        row: Row = {"epoch": len(self.history) + 1.0, "train": means.pop("bound", kl)}
        row["validation"] = self._validate()
        lr = float(self.optimizer.param_groups[0]["lr"])
        return {**row, **means, "data": self.negentropy, "kl": kl + self.negentropy, "lr": lr}

    def _validate(self) -> float:
        if self.validation is None:
            return math.nan
        self.model.eval()
        # the same noise at every epoch: what differs are the weights
        with torch.random.fork_rng(devices=_devices(self.fabric.device)), self.fabric.autocast():
            torch.manual_seed(self.seed)
            return -mean_bound(self.model, self.validation, self.rule.samples)

    def _keep_best(self, row: Row) -> None:
        if self.validation is not None and row["validation"] < self.best.bound:
            self.best = _Best(row["validation"], int(row["epoch"]), _snapshot(self.model))


def start_fabric(device: str, precision: str = "32") -> "Fabric":
    """Lightning Fabric on one device; it is imported here because it takes long to load."""
    from lightning_fabric import Fabric
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    kind, _, number = device.partition(":")
    try:
        return Fabric(
            accelerator=kind,
            devices=[int(number)] if number else 1,
            precision=PRECISIONS[precision],  # type: ignore[arg-type]
        )
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise ValueError(f"there is no device {device!r} on this machine; use 'auto'") from error


def variables(model: Model) -> dict[str, tuple[int, ...]]:
    """Of each modality with layers the elements of its variables, a one-hot group being one."""
    stacks = [(name, stack) for name, stack in model.named_stacks() if len(stack.layers)]
    return {name: variable_sizes(stack[0].decoder.family) for name, stack in stacks}


def _check(how: Trainer) -> None:
    for name, value in {"epochs": how.epochs, "lr": how.lr}.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, but is {value!r}")
    if how.batch_size != "auto" and not (isinstance(how.batch_size, int) and how.batch_size > 0):
        raise ValueError(
            f"batch_size must be a positive whole number or 'auto', but is {how.batch_size!r}"
        )
    if how.clip is not None and not how.clip > 0:
        raise ValueError(f"clip must be positive or None, but is {how.clip!r}")
    if how.weight_decay is not None and not how.weight_decay >= 0:
        raise ValueError(f"weight_decay must not be negative, but is {how.weight_decay!r}")
    if not all(0 <= share <= 1 for share in shares(how.hide)):
        raise ValueError(
            f"hide is a probability between 0 and 1, or one by modality, but is {how.hide!r}"
        )
    if how.practise and not any(shares(how.hide)):
        raise ValueError(
            f"encoders practise on hidden parts, but hide={how.hide!r} hides none; set hide=0.25"
        )
    if not 0 <= how.balance < 1:
        raise ValueError(f"balance is a share from 0 to below 1, but is {how.balance!r}")
    if how.patience is not None and how.patience < 1:
        raise ValueError(f"patience must be at least 1, or None, but is {how.patience!r}")
    _known("device", how.device.partition(":")[0], DEVICES)
    _known("optimizer", how.optimizer, OPTIMIZERS)
    _known("schedule", how.schedule, SCHEDULES)
    _known("precision", how.precision, PRECISIONS)


def _batch_size(asked: int | str, rows: int) -> int:
    return asked if isinstance(asked, int) else min(128, max(16, rows // UPDATES))


def _known(name: str, value: object, names: Collection[str]) -> None:
    if isinstance(value, str) and value not in names:
        raise ValueError(f"{name} must be one of {', '.join(names)}, but is {value!r}")


def _compile(model: Model) -> None:
    for _, stack in model.all_stacks():
        for level in range(len(stack.layers)):
            stack[level].encoder.net.compile()
            stack[level].decoder.net.compile()


def _train(model: Model) -> None:
    """Training mode for all that learns: what is frozen neither drops units nor averages."""
    model.train()
    for part in model.modules():
        if frozen(part):
            part.eval()


def _layers(model: Model) -> Iterator[nn.Module]:
    for _, stack in model.all_stacks():
        yield from stack.layers
    yield model.summit


def _snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _trouble(table: Tensor, keys: list[str], epoch: int) -> str:
    """Which layer, term and batch was not finite first; empty if none was."""
    bad = (~torch.isfinite(table)).nonzero()
    if not len(bad):
        return ""
    batch, column = bad[0].tolist()
    layer, _, part = keys[column].rpartition(".")
    where = f"the {part} of layer {layer}" if layer else f"the {part} term"
    value = table[batch, column].item()
    return f"{where} was {value} in batch {batch + 1} of epoch {epoch}"


def _broken(model: nn.Module) -> str:
    """Which parameter is not finite; empty if all are."""
    for name, p in model.named_parameters():
        if not torch.isfinite(p).all():
            return f"parameter {name} became non-finite"
    return ""

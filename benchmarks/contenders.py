"""The same one-layer model, trained by genprop and by what people use in its place.

Every contender trains encoder and decoder perceptrons with tanh units, a Gaussian code whose scale
comes from the net, a Bernoulli decoder and a standard Gaussian prior, by Adam on the same batches,
and tells how long each epoch took.
"""

import contextlib
import importlib
import io
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from genprop.conditional import Bernoulli
from genprop.data import Batch
from genprop.model import Model
from genprop.priors.gaussian import GaussianPrior
from genprop.rules.backprop import Backprop
from genprop.rules.rule import Rule
from genprop.rules.target import TargetPropagation
from genprop.stack import Stack
from genprop.train import Trainer

LR = 1e-3


@dataclass(frozen=True)
class Task:
    """The model's sizes and the rows it is trained on."""

    name: str
    units: tuple[int, ...]
    code: int
    batch_size: int
    rows: Tensor
    source: str

    @property
    def elements(self) -> int:
        return self.rows.shape[-1]

    def batches(self) -> Iterator[Tensor]:
        """The rows of one epoch, shuffled."""
        for index in torch.randperm(len(self.rows)).split(self.batch_size):
            yield self.rows[index]


@dataclass
class Timing:
    """Seconds of each epoch, and of all that came before the first."""

    setup: float = 0.0
    epochs: list[float] = field(default_factory=list)


Contender = Callable[[Task, int], Timing]


@contextlib.contextmanager
def timed(timing: Timing) -> Iterator[None]:
    """Adds an epoch."""
    start = time.perf_counter()
    yield
    timing.epochs.append(time.perf_counter() - start)


def target_propagation(task: Task, epochs: int) -> Timing:
    """The package's default rule in its training loop."""
    return genprop(TargetPropagation(1), task, epochs)


def backprop(task: Task, epochs: int) -> Timing:
    """The same loop with back-propagation."""
    return genprop(Backprop(1), task, epochs)


def genprop(rule: Rule, task: Task, epochs: int) -> Timing:
    """With everything a user gets: the account by layer, checks for finite values, snapshots."""
    start = time.perf_counter()
    stack = Stack.build(Bernoulli(task.elements), (task.code,), units=task.units)
    model = Model(stack, GaussianPrior(task.code))
    began: list[float] = []
    trainer = Trainer(
        epochs=epochs + 1,
        batch_size=task.batch_size,
        lr=LR,
        schedule=_clock(began, epochs + 1),
        patience=None,
        device="cpu",
        verbose=0,
    )
    trainer.fit(model, rule, Batch.of(task.rows))
    return Timing(began[0] - start, [after - before for before, after in pairwise(began)])


def _clock(began: list[float], epochs: int) -> Callable[[float], float]:
    """A constant schedule that notes when each epoch makes its first update.

    From one epoch's first update to the next one's everything counts, also what the trainer does
    between its epochs and leaves out of its own column of seconds.
    """

    def schedule(done: float) -> float:
        if done * epochs + 1e-6 >= len(began):
            began.append(time.perf_counter())
        return 1.0

    return schedule


def hand_written(task: Task, epochs: int) -> Timing:
    """The loop that one writes without any package: analytic KL, a fused Adam."""
    start = time.perf_counter()
    encoder, decoder = _nets(task)
    adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], LR, fused=True)
    timing = Timing(time.perf_counter() - start)
    for _ in range(epochs):
        with timed(timing):
            total = torch.zeros(())
            for x in task.batches():
                adam.zero_grad()
                loss = _negative_elbo(encoder, decoder, x)
                loss.backward()
                adam.step()
                total += loss.detach()
    return timing


def _negative_elbo(encoder: nn.Module, decoder: nn.Module, x: Tensor) -> Tensor:
    loc, log_variance = encoder(x).chunk(2, -1)
    h = loc + torch.randn_like(loc) * torch.exp(0.5 * log_variance)
    misfit = functional.binary_cross_entropy_with_logits(decoder(h), x, reduction="sum")
    divergence = -0.5 * torch.sum(1 + log_variance - loc.square() - log_variance.exp())
    return (misfit + divergence) / len(x)


def pyro_svi(task: Task, epochs: int) -> Timing:
    """Pyro's SVI with Trace_ELBO, as its tutorial on variational auto-encoders has it.

    That is, with a plate, probabilities from the decoder, and validation of distributions off.
    """
    pyro, infer = _load("pyro"), _load("pyro.infer")
    start = time.perf_counter()
    pyro.clear_param_store()
    model, guide = _pyro_programs(pyro, task)
    svi = infer.SVI(model, guide, pyro.optim.Adam({"lr": LR}), loss=infer.Trace_ELBO())
    timing = Timing(time.perf_counter() - start)
    with pyro.distributions.validation_enabled(False):
        for _ in range(epochs):
            with timed(timing):
                total = 0.0
                for x in task.batches():
                    total += svi.step(x)
    return timing


def _pyro_programs(
    pyro: Any, task: Task
) -> tuple[Callable[[Tensor], Any], Callable[[Tensor], Any]]:
    encoder, decoder = _nets(task)
    law = pyro.distributions

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("rows", len(x)):
            zeros = x.new_zeros(len(x), task.code)
            h = pyro.sample("h", law.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            pyro.sample("x", law.Bernoulli(decoder(h).sigmoid()).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("rows", len(x)):
            loc, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("h", law.Normal(loc, log_scale.exp()).to_event(1))

    return model, guide


def pythae_trainer(task: Task, epochs: int) -> Timing:
    """Pythae's BaseTrainer on its VAE with the same nets."""
    models, trainers, data = _load("pythae.models"), _load("pythae.trainers"), _load("pythae.data")
    timing = Timing()
    start = time.perf_counter()
    with _silent(), tempfile.TemporaryDirectory() as folder:
        config = models.VAEConfig(
            input_dim=(task.elements,), latent_dim=task.code, reconstruction_loss="bce"
        )
        how = trainers.BaseTrainerConfig(
            output_dir=folder,
            num_epochs=epochs,
            learning_rate=LR,
            per_device_train_batch_size=task.batch_size,
            no_cuda=True,
        )
        trainer = trainers.BaseTrainer(
            model=models.VAE(config, *_pythae_nets(task)),
            train_dataset=data.BaseDataset(task.rows, torch.zeros(len(task.rows))),
            training_config=how,
            callbacks=[_pythae_clock(timing, start)],
        )
        trainer.train()
    return timing


def _pythae_nets(task: Task) -> tuple[nn.Module, nn.Module]:
    bases, output = _load("pythae.models.nn"), _load("pythae.models.base.base_utils").ModelOutput
    up, down = _nets(task)

    class Encoder(bases.BaseEncoder):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = up

        def forward(self, x: Tensor) -> Any:
            loc, log_variance = self.net(x).chunk(2, -1)
            return output(embedding=loc, log_covariance=log_variance)

    class Decoder(bases.BaseDecoder):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(*down, nn.Sigmoid())

        def forward(self, z: Tensor) -> Any:
            return output(reconstruction=self.net(z))

    return Encoder(), Decoder()


def _pythae_clock(timing: Timing, start: float) -> Any:
    """A callback that notes how long each epoch takes."""
    callbacks = _load("pythae.trainers.training_callbacks")

    class Clock(callbacks.TrainingCallback):  # type: ignore[name-defined,misc]
        began = 0.0

        def on_epoch_begin(self, training_config: Any, **kwargs: Any) -> None:
            self.began = time.perf_counter()
            timing.setup = timing.setup or self.began - start

        def on_epoch_end(self, training_config: Any, **kwargs: Any) -> None:
            timing.epochs.append(time.perf_counter() - self.began)

    return Clock()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the lines and bars that a trainer prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        logging.disable(logging.INFO)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def _nets(task: Task) -> tuple[nn.Sequential, nn.Sequential]:
    up = (task.elements, *task.units, 2 * task.code)
    down = (task.code, *reversed(task.units), task.elements)
    return _perceptron(up), _perceptron(down)


def _perceptron(widths: Sequence[int]) -> nn.Sequential:
    parts: list[nn.Module] = []
    for below, above in pairwise(widths):
        parts += [nn.Linear(below, above), nn.Tanh()]
    return nn.Sequential(*parts[:-1])


def _load(name: str) -> Any:
    return importlib.import_module(name)

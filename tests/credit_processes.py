"""The same small pipelines in one process and in several, and what they come to."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Adam, Optimizer

from genprop.conditional import Gaussian
from genprop.credit.associated import AssociatedLearning
from genprop.credit.component_stage import component_stages
from genprop.credit.generative_stage import generative_stages
from genprop.credit.link import Message, meeting
from genprop.credit.network import CreditNetwork
from genprop.credit.pipeline import train_stage
from genprop.credit.stage import Stage
from genprop.model import Model
from genprop.priors.gaussian import GaussianPrior
from genprop.stack import Stack
from genprop.threads import one_thread

UPDATES, ROWS, SEED = 6, 5, 3


def al_network() -> tuple[CreditNetwork, AssociatedLearning]:
    """Three components."""
    torch.manual_seed(0)
    network = CreditNetwork.build(7, (6, 6, 5), 3).double()
    return network, AssociatedLearning(network, 4).double()


def generative_model() -> Model:
    """Three Gaussian layers under a Gaussian prior."""
    torch.manual_seed(0)
    return Model(Stack.build(Gaussian(7), (5, 4, 3), units=(6,)), GaussianPrior(3, "full")).double()


def components(sizes: tuple[int, ...] | None) -> list[Stage]:
    return list(component_stages(*al_network(), sizes))


def generative(sizes: tuple[int, ...] | None) -> list[Stage]:
    return list(generative_stages(generative_model(), sizes))


KINDS: dict[str, Callable[[tuple[int, ...] | None], list[Stage]]] = {
    "components": components,
    "generative": generative,
}


def batches(kind: str) -> list[Message]:
    """Rows of noise, with what the output ought to be where there are components."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(UPDATES, ROWS, 7, generator=generator, dtype=torch.float64)
    classes = torch.randint(3, (UPDATES, ROWS), generator=generator)
    wanted = torch.eye(3, dtype=torch.float64)[classes]
    return list(zip(x, wanted, strict=True)) if kind == "components" else [(part,) for part in x]


def optimizers(stages: Sequence[Stage]) -> list[Optimizer]:
    return [Adam(stage.parameters(), 0.01) for stage in stages]


def weights(stage: Stage) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in stage.named_parameters()}


@one_thread()
def run(rank: int, folder: Path, sizes: tuple[int, ...]) -> None:
    """Trains the stage of one process, of each kind, and leaves its weights in the folder."""
    with meeting(folder / "meeting", rank, len(sizes)):
        for kind, make in KINDS.items():
            stage = make(sizes)[rank]
            data = batches(kind) if rank == 0 else ()
            train_stage(stage, optimizers([stage])[0], UPDATES, data, SEED)
            save_file(weights(stage), folder / f"{kind}-{rank}.safetensors")

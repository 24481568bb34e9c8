from collections.abc import Iterator

import numpy as np
import pytest
import torch

from genprop.threads import one_thread


@pytest.fixture(autouse=True, scope="session")
def small_tensors() -> Iterator[None]:
    """The tensors of the tests are too small to be shared between threads."""
    with one_thread():
        yield


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Every test starts from the same random state and leaves the generators as it found them."""
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    torch.manual_seed(0)
    np.random.seed(0)
    yield
    torch.set_rng_state(torch_state)
    np.random.set_state(numpy_state)

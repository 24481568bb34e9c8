"""What the weights of modalities may be."""

import math
from collections.abc import Mapping

from genprop.names import check_names
from genprop.stack import Stack


def checked_weights(
    weights: Mapping[str, float], stacks: Mapping[str, Stack], joined: bool
) -> dict[str, float]:
    """Factors of log P(x_m | h) by modality, if they can be that.

    Args:
        weights: of some or all modalities.
        stacks: of all of them.
        joined: whether there are layers above all modalities together.

    Raises:
        ValueError: an unknown modality, a weight that is not positive and finite, or one of a
            modality that no layer explains.

    >>> from genprop.conditional import Bernoulli
    >>> checked_weights({"x": 0.1}, {"x": Stack.build(Bernoulli(4), (2,))}, False)
    {'x': 0.1}
    """
    check_names("weights", weights, stacks)
    for name, weight in weights.items():
        if not 0 < weight < math.inf:
            raise ValueError(
                f"weights are positive numbers by modality, but {name!r} has {weight!r}"
            )
        if not len(stacks[name].layers) and not joined and weight != 1:
            raise ValueError(
                f"modality {name!r} has a weight, but no layer that explains it; give it a layer, "
                f"or layers above all modalities"
            )
    return dict(weights)

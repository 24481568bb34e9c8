"""Names for the shapes of tensors, checked at run time in the tests only.

Draws come first, also for one draw: ``(draws, rows, elements)``.
"""

from jaxtyping import Bool, Float
from torch import Tensor

Elements = Float[Tensor, "... elements"]
"""Values of one event a row: data x, a hidden layer h, a code."""

Outputs = Float[Tensor, "... outputs"]
"""What a net returns for each row: the parameters of a law."""

Seen = Bool[Tensor, "... elements"]
"""True where an element was observed."""

PerRow = Float[Tensor, "..."]
"""One number for each row (or each draw of each row), in nats where it is a log-probability."""

Scalar = Float[Tensor, ""]
"""One number, differentiable where it is a term of a rule."""

Rows = Bool[Tensor, "..."]
"""One truth value a row (or a draw of a row)."""

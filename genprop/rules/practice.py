"""Rows of which a part is hidden from encoders: what these practise on them."""

from collections.abc import Iterator
from contextlib import ExitStack

from genprop.data import Batch
from genprop.model import Model
from genprop.nets import constant
from genprop.rules.rule import Rule, Term


def practised(rule: Rule, model: Model, batch: Batch, hidden: Batch) -> Iterator[Term]:
    """A rule's terms of whole rows, then those of the same rows partly hidden, for encoders alone.

    Decoders and prior so learn the law of the rows as they are seen, P(x, h), and no other; a code
    that an encoder makes of a part, which is an average of what the rest may be, does not reach
    them. Their gradient is that of the rule on whole rows, and the account, too.

    Args:
        rule: how credit is assigned.
        model: the model.
        batch: the rows.
        hidden: the same rows with cells hidden from encoders (``Batch.hide``).
    """
    yield from rule(model, batch)
    with ExitStack() as held:
        held.enter_context(model.summit.held())
        for _, stack in model.all_stacks():
            for level in range(len(stack.layers)):
                held.enter_context(constant(stack[level].decoder))
        for term in rule(model, hidden):
            yield term._replace(account={})

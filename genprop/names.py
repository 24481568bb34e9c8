"""Names that a user writes, held against those there are."""

from collections.abc import Iterable
from difflib import get_close_matches


def check_names(
    argument: str, names: Iterable[object], known: Iterable[object], kind: str = "modalities"
) -> None:
    """Refuses names of nothing, and asks whether the nearest of those there are was meant.

    Args:
        argument: where they are written.
        names: those written.
        known: those there are.
        kind: of what.

    Raises:
        ValueError: a name that is not among those known.

    >>> check_names("visible", ["lable"], ["image", "label"])
    Traceback (most recent call last):
    ValueError: visible names 'lable', but the modalities are 'image', 'label'; is 'label' meant?
    """
    there = [str(name) for name in known]
    unknown = [str(name) for name in names if str(name) not in there]
    if not unknown:
        return
    meant = dict.fromkeys(near for name in unknown for near in get_close_matches(name, there, 1))
    asked = f"; is {_quoted(meant)} meant?" if meant else ""
    raise ValueError(
        f"{argument} names {_quoted(unknown)}, but the {kind} are {_quoted(there)}{asked}"
    )


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))

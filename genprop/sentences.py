"""Errors and warnings as sentences, for those who do not read tracebacks."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def sentence(error: Exception) -> str:
    r"""The message on one line.

    >>> sentence(ValueError("a\n  b")), sentence(FileNotFoundError(2, "No such file", "x.csv"))
    ('a b', 'x.csv: No such file.')
    """
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}."
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def warnings_as_sentences(say: Callable[[str], None]) -> Iterator[None]:
    """Within it a warning is one line that is said; those meant for programmers are left out."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        say(f"warning: {' '.join(str(message).split())}")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning)
        warnings.filterwarnings("ignore", "X does not have valid feature names")
        warnings.showwarning = show
        yield

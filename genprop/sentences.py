"""What went wrong, in one line each: errors, and warnings on stderr."""

import sys
import warnings
from collections.abc import Iterator
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
def warnings_as_sentences() -> Iterator[None]:
    """Within it a warning is one line on stderr; those meant for programmers are left out."""

    def say(message: Warning | str, *_: object, **__: object) -> None:
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning)
        warnings.filterwarnings("ignore", "X does not have valid feature names")
        warnings.showwarning = say
        yield

"""IDX files, those of MNIST: 0 0 type ndim, the sizes as big-endian 32-bit integers, the values."""

import gzip
import io
import math
import zlib
from pathlib import Path

import numpy as np

GZIP_MAGIC = b"\x1f\x8b"
TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def is_idx(path: Path) -> bool:
    """Whether the first four bytes of a file, gzipped or not, say so."""
    try:
        with _inflated(path) as stream:
            return _is_magic(stream.read(4))
    except (OSError, EOFError, zlib.error):
        return False


def read_idx(path: Path) -> np.ndarray:
    """The array in a file.

    Raises:
        ValueError: its first bytes are no header, or what follows has another size.
    """
    with _inflated(path) as stream:
        content = stream.read()
    if not _is_magic(content[:4]):
        raise ValueError("it does not begin with two zero bytes, a known type and 1 to 32 sizes")
    dtype, ndim = np.dtype(TYPES[content[2]]), content[3]
    start = 4 + 4 * ndim
    shape = np.frombuffer(content[4:start], dtype=">u4").tolist()
    expected = math.prod(shape) * dtype.itemsize
    if len(shape) < ndim or len(content) - start != expected:
        raise ValueError(
            f"its header {shape} asks for {expected} bytes of values, "
            f"but {max(len(content) - start, 0)} follow"
        )
    values = np.frombuffer(content, dtype=dtype, offset=start).reshape(shape)
    return values.astype(dtype.newbyteorder("="))


def _is_magic(magic: bytes) -> bool:
    zeros, (code, ndim) = magic[:2], magic[2:4] if len(magic) == 4 else (0, 0)
    return zeros == b"\0\0" and code in TYPES and 1 <= ndim <= 32


def _inflated(path: Path) -> io.BufferedIOBase:
    with path.open("rb") as stream:
        zipped = stream.read(2) == GZIP_MAGIC
    return gzip.open(path, "rb") if zipped else path.open("rb")

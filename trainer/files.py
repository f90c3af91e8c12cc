"""Writing files that a crash or a full disk cannot tear."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path, kept: str) -> Iterator[IO[bytes]]:
    """A file to write, beside the target; flushed to disk and renamed to it at the end.

    Args:
        path: the target.
        kept: a sentence's beginning that says what a failure leaves untouched.

    Raises:
        OSError: it could not be written, for lack of space say; what was there still is.
    """
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # PyTorch's writer hides the cause in a RuntimeError
        free = shutil.disk_usage(path.parent).free
        part.unlink(missing_ok=True)
        raise OSError(
            f"{path} could not be written ({free / 2**20:.0f} MiB are free there): {error}. {kept}: make "
            "space and run the same command again"
        ) from error
    part.replace(path)

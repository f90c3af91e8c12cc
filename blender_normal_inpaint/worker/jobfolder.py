"""The private folder of one worker, and the removal of those whose owners are gone.

A folder is removed by its owner, or by the worker if the owner is killed. Both can end at once (power, a
machine out of memory), so whoever makes the next folder looks for such leftovers. A lock that the system
drops with its holder tells them from the folders of programs that run: process numbers are used again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

_PREFIX = "normal_inpaint_"
#: Held by the owner for as long as it lives.
_LOCK = "owner.lock"
#: A folder's lock file exists a moment before it is locked; a younger one is left alone, in seconds.
_YOUNG = 60.0

if sys.platform == "win32":
    import msvcrt

    def _lock(stream: IO[bytes]) -> None:
        msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(stream: IO[bytes]) -> None:
        fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


class JobFolder:
    """A new folder that only this user can enter.

    Args:
        parent: Where to make it; None for the system's temporary folder.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, parent: Path | None = None) -> None:
        remove_leftovers(parent)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent)).resolve()
        self._held: IO[bytes] | None = None
        # Without the lock (a full disk, an odd file system) it could only be left behind.
        with contextlib.suppress(OSError):
            self._held = (self.path / _LOCK).open("wb")
            _lock(self._held)

    def remove(self) -> None:
        """Remove it, trying again: Windows lets go of an ended process's files a little late."""
        if self._held is not None:
            self._held.close()
        for _ in range(20):
            shutil.rmtree(self.path, ignore_errors=True)
            if not self.path.exists():
                return
            time.sleep(0.05)


def remove_leftovers(parent: Path | None = None) -> None:
    """Remove the folders of this user whose owners ended without a chance to; never raises."""
    with contextlib.suppress(OSError):
        for folder in Path(parent or tempfile.gettempdir()).glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):
                if _is_left_over(folder):
                    shutil.rmtree(folder, ignore_errors=True)


def _is_left_over(folder: Path) -> bool:
    """Whether it is surely ours and nobody's any more.

    Raises:
        OSError: Its lock is held, missing or not ours: leave it alone.
    """
    if folder.is_symlink() or (hasattr(os, "getuid") and folder.stat().st_uid != os.getuid()):
        return False
    lock = folder / _LOCK
    if time.time() - lock.stat().st_mtime < _YOUNG:
        return False
    with lock.open("r+b") as stream:
        _lock(stream)
    return True

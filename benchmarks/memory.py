"""The peak memory of a process, as the kernel counts it."""

from __future__ import annotations

from pathlib import Path


def peak_mb(process: int | str = "self") -> float | None:
    """The largest resident size so far in MB; None where the system does not tell (only Linux does)."""
    try:
        for line in (
            Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace").splitlines()
        ):
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return None

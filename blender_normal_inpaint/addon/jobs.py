"""The one running job, its thread, and the one worker.

A job's work runs in a Python thread that never touches bpy; the main thread only asks how far it is. The
window's modal operator and the blocking path of scripts share all of it but the way they wait.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..core.engine import Cancel, Progress
from ..core.errors import Cancelled, InpaintError
from ..worker.client import WorkerClient, WorkerOptions

T = TypeVar("T")

#: How long leaving (unregister, another file) waits for a cancelled job's thread.
_LEAVE = 10.0


class Job(Generic[T]):
    """Work in a thread of its own, with progress, a cancel flag and one outcome."""

    def __init__(self, work: Callable[[Progress, Cancel], T]) -> None:
        self._work = work
        self._cancel = threading.Event()
        self._lock = threading.Lock()
        self._fraction = 0.0
        self._text = "Starting"
        self._result: list[T] = []
        self._error: InpaintError | None = None
        self._thread = threading.Thread(target=self._run, name="normal inpaint job", daemon=True)

    def start(self) -> None:
        """Begin; called once."""
        self._thread.start()

    def _run(self) -> None:
        try:
            result = self._work(self._progress, self._cancel.is_set)
            if self._cancel.is_set():
                raise Cancelled()
            self._result.append(result)
        except InpaintError as error:
            self._error = error
        except MemoryError as error:
            self._error = InpaintError("out_of_memory", detail=str(error))
        except BaseException:  # the edge of the thread: nothing above could report it
            self._error = InpaintError("internal", detail=traceback.format_exc())

    def _progress(self, fraction: float, text: str) -> None:
        with self._lock:
            self._fraction = min(max(float(fraction), 0.0), 1.0)
            self._text = text

    @property
    def finished(self) -> bool:
        """Whether the thread has ended."""
        return self._thread.ident is not None and not self._thread.is_alive()

    @property
    def cancelling(self) -> bool:
        """Whether a cancel was asked for."""
        return self._cancel.is_set()

    def progress(self) -> tuple[float, str]:
        """How far it is, 0..1, and what it does."""
        with self._lock:
            return self._fraction, "Cancelling" if self._cancel.is_set() else self._text

    def cancel(self) -> None:
        """Ask it to stop; it ends soon after, with `Cancelled`."""
        self._cancel.set()

    def join(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds; whether it has ended."""
        self._thread.join(timeout)
        return self.finished

    def result(self) -> T:
        """What the work returned, once finished.

        Raises:
            InpaintError: What it raised.
        """
        if self._error is not None:
            raise self._error
        return self._result[0]


@dataclass
class _State:
    """What the session remembers; nothing of it is saved."""

    job: Job[Any] | None = None
    client: WorkerClient | None = None
    error: InpaintError | None = None
    notices: list[str] = field(default_factory=list)
    summary: str = ""
    #: The image that the summary is about, as a session's id; 0 for none.
    made: int = 0
    #: The Image Editors that were switched to it: their areas' addresses, and what they showed before.
    switched: dict[int, int] = field(default_factory=dict)
    #: Whether it was gone after the last undo.
    undone: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


state = _State()


# The job ----------------------------------------------------------------------------------------------


def running() -> Job[Any] | None:
    """The job that runs now."""
    return state.job


def begin(work: Callable[[Progress, Cancel], T]) -> Job[T]:
    """Start the one job.

    Raises:
        InpaintError: `busy` if there is one already.
    """
    if state.job is not None:
        raise InpaintError("busy")
    job: Job[T] = Job(work)
    state.job = job
    state.error = None
    state.notices = []
    state.summary = ""
    state.made = 0
    job.start()
    return job


def end(job: Job[T]) -> None:
    """Make room for the next job."""
    if state.job is job:
        state.job = None


def wait(job: Job[T], watch: Callable[[float, str], None] | None = None) -> T:
    """Block until the job ends, on whatever thread called; Ctrl-C cancels it.

    Raises:
        InpaintError: What it raised.
    """
    try:
        while not job.join(0.05):
            if watch is not None:
                watch(*job.progress())
        result = job.result()
        if watch is not None:  # A quick job ends before it was looked at once.
            watch(1.0, "Done")
        return result
    except KeyboardInterrupt:
        job.cancel()
        job.join(_LEAVE)
        raise
    finally:
        end(job)


def fail(error: InpaintError) -> None:
    """Remember an error for the panel; a cancel is none."""
    state.error = None if isinstance(error, Cancelled) else error
    if error.detail and not isinstance(error, Cancelled):
        print(f"Normal Inpaint: {error.message}\n{error.detail}", file=sys.stderr)


def drop() -> None:
    """Cancel the running job and wait for its thread; its result is not used."""
    job = state.job
    if job is None:
        return
    job.cancel()
    if not job.join(_LEAVE):
        stop_worker()  # whatever it waits for, it is the worker
        job.join(_LEAVE)
    end(job)


# The worker -------------------------------------------------------------------------------------------


def client_for(options: WorkerOptions) -> WorkerClient:
    """The worker for these options: the running one if it fits, else a new one (started on first use)."""
    with state.lock:
        old = state.client
        if old is not None and old.matches(options):
            return old
        state.client = client = WorkerClient(options)
    if old is not None:
        old.close()
    return client


def stop_worker() -> None:
    """End the worker process; the next job starts a fresh one."""
    with state.lock:
        client, state.client = state.client, None
    if client is not None:
        client.close()


def engine_status() -> str:
    """Which engine and device really answered, as one line."""
    client = state.client
    if client is None or client.hello is None:
        return "Not started yet: it starts with the first repair"
    engine = {"onnx": "ONNX Runtime", "torch": "PyTorch"}.get(client.hello.engine, client.hello.engine)
    device = client.device or client.hello.device
    return f"{engine} on {device}" + ("" if client.alive else " (stopped; starts again when needed)")


def shut_down() -> None:
    """Leave nothing behind: no job, no process."""
    drop()
    stop_worker()
    state.error = None
    state.notices = []
    state.summary = ""


# Where things are -------------------------------------------------------------------------------------


def package_dir() -> Path:
    """The folder of the whole package, which the worker mounts."""
    return Path(__file__).resolve().parent.parent


def blender_python() -> Path:
    """The Python that Blender brings.

    Raises:
        InpaintError: `worker_start` if it is not where it should be.
    """
    names = ["python.exe"] if os.name == "nt" else [f"python3.{sys.version_info[1]}", "python3", "python"]
    folders = [Path(sys.prefix) / "bin", Path(sys.exec_prefix) / "bin", Path(sys.prefix)]
    places = [Path(sys.executable or ""), *(folder / name for folder in folders for name in names)]
    for place in places:
        # In some builds sys.executable is Blender itself.
        if place.name.lower().startswith("python") and place.is_file():
            return place
    raise InpaintError(
        "worker_start",
        "Blender's own Python program was not found.",
        "Reinstall Blender, or name a Python with numpy and onnxruntime in the preferences.",
        "\n".join(str(place) for place in places),
    )


def search_paths() -> tuple[Path, ...]:
    """The folders in which this process would find what the worker imports; nothing is imported."""
    folders: list[Path] = []
    for name in ("onnxruntime", "OpenImageIO", "numpy"):
        spec = None
        with contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin:
            folder = Path(spec.origin).resolve().parent.parent
            if folder not in folders:
                folders.append(folder)
    return tuple(folders)

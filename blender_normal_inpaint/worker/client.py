"""The caller's side of the worker: starts it, speaks with it, and ends it whatever happens.

All of it blocks, so Blender calls it from a thread of its own. Whatever goes wrong becomes one
`InpaintError`; where the worker can no longer be trusted it is killed, and the next call starts a fresh one.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..core.engine import BoolArray, Cancel, Crop, FloatArray, Pixels, Progress, never_cancel, no_progress
from ..core.errors import Cancelled, InpaintError
from . import protocol
from .jobfolder import JobFolder
from .protocol import Hello

__all__ = ["Hello", "WorkerClient", "WorkerOptions", "clean_environment"]

#: How often a waiting call looks at its cancel flag and deadlines, in seconds.
_POLL = 0.05
#: The log is moved aside to `<name>.old` at this size.
_LOG_BYTES = 1 << 20
#: How much of the worker's last words an error carries.
_TAIL_BYTES = 4096
#: How long a worker may take to leave after its stdin has ended, before it is killed.
_LEAVE = 1.0
#: Lines that launchers and start-up files may print before the worker has taken stdout for itself.
_NOISE_LINES = 1000
#: The engine of a worker that only writes files.
_NO_ENGINE = "none"
#: A worker in which one of these happened is not used again.
_FATAL = ("internal", "out_of_memory", "bad_result")
#: After so many deaths in a row the Python that the user named is given up for the fallback.
_DEATHS = 2


@dataclass(frozen=True)
class WorkerOptions:
    """What a worker is started with; a client whose options differ must be replaced.

    `search_paths` belong to `fallback_python` when there is one and to `python` otherwise: folders made
    for Blender's Python must not be forced upon another. All deadlines are in seconds.
    """

    #: The Python to run.
    python: Path
    #: The folder of this package, mounted in the worker under a fixed name.
    package_dir: Path
    #: Where onnxruntime, numpy and OpenImageIO lie, if that Python does not find them itself.
    search_paths: tuple[Path, ...] = ()
    #: "auto", "onnx" or "torch".
    engine: str = "auto"
    #: As for `engines.create_engine`.
    device: str | None = None
    #: The model card; None for the bundled network.
    weights: Path | None = None
    #: The Python that runs ONNX Runtime if `python` cannot start: Blender's own.
    fallback_python: Path | None = None
    #: Until the worker has said hello.
    start_timeout: float = 60.0
    #: For one whole request.
    request_timeout: float = 600.0
    #: Without any progress within a request.
    stall_timeout: float = 180.0
    #: Between asking for a cancel and killing.
    cancel_grace: float = 3.0
    #: Where the worker's stderr goes, capped; None keeps only its tail for error messages.
    log_path: Path | None = None
    #: Where the private job folder is made; None for the system's place.
    temp_dir: Path | None = None
    #: CPU threads of the engine; None lets it choose.
    threads: int | None = None


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for another Python: everything but what steers a Python.

    What the system, the graphics drivers and the numeric libraries read is kept.
    """
    dropped = ("__PYVENV_LAUNCHER__", "VIRTUAL_ENV")
    return {
        name: value
        for name, value in environ.items()
        if not name.upper().startswith("PYTHON") and name.upper() not in dropped
    }


class _Log:
    """Takes the worker's stderr: a file of limited size, and the last few kilobytes for error messages."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._tail = bytearray()
        self._lock = threading.Lock()

    def write(self, data: bytes) -> None:
        with self._lock:
            self._tail += data
            del self._tail[:-_TAIL_BYTES]
            if self.path is None:
                return
            # A log that cannot be written must not stop the pipe from being drained.
            with contextlib.suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                if self.path.exists() and self.path.stat().st_size + len(data) > _LOG_BYTES:
                    self.path.replace(self.path.with_name(self.path.name + ".old"))
                with self.path.open("ab") as stream:
                    stream.write(data)

    def note(self, text: str) -> None:
        self.write(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {text}\n".encode())

    def describe(self) -> str:
        """The tail, and where the rest is."""
        with self._lock:
            tail = self._tail.decode("utf-8", "replace").strip()
        return "\n".join(part for part in (tail, f"Log: {self.path}" if self.path else "") if part)


class _End:
    """Stands in the queue where the worker's stdout ended."""


_Item = bytes | _End


def _fill_queue(stream: IO[bytes], items: queue.Queue[_Item], stopped: threading.Event) -> None:
    def put(item: _Item) -> None:
        # A full queue holds a flooding worker back, but never a thread of an ended one.
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                items.put(item, timeout=0.2)
                return

    with contextlib.suppress(OSError, ValueError):
        while line := stream.readline(protocol.MAX_LINE):
            put(line)
    put(_End())


def _drain(stream: IO[bytes], log: _Log) -> None:
    with contextlib.suppress(OSError, ValueError):
        while data := os.read(stream.fileno(), 1 << 16):
            log.write(data)


class _Process:
    """One running worker with its pipes, its two threads and its job folder."""

    def __init__(self, command: list[str], options: WorkerOptions, log: _Log) -> None:
        self.log = log
        self.hello: Hello | None = None
        #: Set when this side ended it on purpose.
        self.closed = threading.Event()
        self._stopped = threading.Event()
        self._stopping = threading.Lock()
        self._sending = threading.Lock()
        try:
            self._folder = JobFolder(options.temp_dir)
        except OSError as error:
            place = options.temp_dir or Path(tempfile.gettempdir())
            raise protocol.storage_error(error, "a job folder", place) from error
        self.job_dir = self._folder.path
        log.note("starting " + " ".join(command))
        try:
            self._popen = self._start([*command, "--job-dir", str(self.job_dir)], options)
        except (OSError, ValueError) as error:
            self._folder.remove()
            raise InpaintError(
                "worker_start",
                f"The Python at {options.python} could not be started: {error}.",
                "Check the path of the Python chosen in the preferences.",
                log.describe(),
            ) from error
        assert self._popen.stdin and self._popen.stdout and self._popen.stderr
        self._stdin = self._popen.stdin
        self.items: queue.Queue[_Item] = queue.Queue(maxsize=4096)
        self._threads = [
            threading.Thread(
                target=_fill_queue, args=(self._popen.stdout, self.items, self._stopped), daemon=True
            ),
            threading.Thread(target=_drain, args=(self._popen.stderr, log), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _start(command: list[str], options: WorkerOptions) -> subprocess.Popen[bytes]:
        extra: dict[str, Any] = {}
        # A group of its own: Ctrl-C in the terminal that Blender runs in is not for the worker.
        if sys.platform == "win32":
            extra["creationflags"] = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
        else:
            extra["start_new_session"] = True
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_environment(os.environ),
            # Any other folder would be locked by the worker on Windows.
            cwd=options.package_dir.resolve().anchor,
            **extra,
        )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return not self._stopped.is_set() and self._popen.poll() is None

    def send(self, message: protocol.Request) -> bool:
        """Write one line; False if the worker's end is closed."""
        try:
            with self._sending:
                self._stdin.write(protocol.encode(message))
                self._stdin.flush()
        except (OSError, ValueError):
            return False
        return True

    def receive(self, timeout: float) -> _Item | None:
        """The next line, the end, or None after `timeout` seconds."""
        try:
            return self.items.get(timeout=max(timeout, 0.001))
        except queue.Empty:
            return _End() if self._stopped.is_set() else None

    def make_folder(self, number: int) -> Path:
        """A fresh folder for one request's arrays."""
        folder = self.job_dir / f"r{number}"
        try:
            folder.mkdir(mode=0o700)
        except FileNotFoundError:
            # Systems sweep their temporary folder of what lay unused for days.
            self.job_dir.mkdir(mode=0o700)
            folder.mkdir(mode=0o700)
        return folder

    def last_words(self) -> str:
        """How it ended and what it said last; waits a moment for both."""
        status = "it is still running"
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._popen.wait(timeout=_LEAVE)
            status = f"exit status {code}"
            if code < 0:
                with contextlib.suppress(ValueError):
                    status = f"ended by {signal.Signals(-code).name}"
        self._threads[1].join(timeout=0.5)
        return f"{status}\n{self.log.describe()}".strip()

    def stop(self, *, kill: bool = False) -> None:
        """End it and remove its job folder; harmless when repeated, from any thread."""
        self.closed.set()
        with self._stopping:
            if self._stopped.is_set():
                return
            if not kill and self._sending.acquire(timeout=0.1):
                # The end of its stdin is the worker's order to leave.
                try:
                    with contextlib.suppress(OSError, ValueError):
                        self._stdin.close()
                finally:
                    self._sending.release()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._popen.wait(timeout=_LEAVE)
            self._kill()
            self._stopped.set()
            for thread in self._threads:
                thread.join(timeout=1.0)
            # The streams of a thread that still reads would block their own closing.
            for thread, stream in zip(self._threads, (self._popen.stdout, self._popen.stderr), strict=True):
                if stream is not None and not thread.is_alive():
                    stream.close()
            with contextlib.suppress(OSError, ValueError):
                self._stdin.close()
            self._folder.remove()
            self.log.note(f"ended with status {self._popen.returncode}")

    def _kill(self) -> None:
        if self._popen.poll() is None:
            if sys.platform == "win32":
                self._popen.kill()
            else:
                # Not yet reaped, so the number still means this process and what it started.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._popen.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout=5.0)


class WorkerClient:
    """Fills crops in a worker process: a `core.engine.Filler`.

    The worker starts on first use and stays until `close`, until the client is collected, or until this
    process ends. One job runs at a time; `close` may be called meanwhile from any thread.
    """

    def __init__(self, options: WorkerOptions) -> None:
        self.options = options
        #: What the running worker said when it started; None before that.
        self.hello: Hello | None = None
        #: Where the engine runs at present: it may have moved to the CPU since its hello.
        self.device = ""
        self._log = _Log(options.log_path)
        self._process: _Process | None = None
        self._finalizer: weakref.finalize[[], WorkerClient] | None = None
        self._job = threading.Lock()
        self._swap = threading.Lock()
        self._closes = 0
        self._number = 0
        self._deaths = 0
        #: Why the Python that the user named is not used; "" while it is.
        self._fell_back = ""
        self._notices: list[str] = []

    # State -------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether a worker has said hello and still runs."""
        process = self._process
        return process is not None and process.hello is not None and process.running

    def matches(self, options: WorkerOptions) -> bool:
        """Whether this client would do for `options`."""
        return self.options == options

    def take_notices(self) -> list[str]:
        """Sentences for the user since the last call, from starts and from requests."""
        taken, self._notices = self._notices, []
        return taken

    # Calls -------------------------------------------------------------------------------------------

    def ensure_started(self, cancel: Cancel | None = None) -> Hello:
        """Start the worker unless it runs.

        Raises:
            InpaintError: `worker_start`, `worker_died`, `worker_timeout`, `worker_protocol`, what
                `create_engine` raised in the worker, `busy`, or `cancelled`.
        """
        with self._one_job():
            process = self._ensure(cancel or never_cancel)
            assert process.hello is not None
            return process.hello

    def fill(
        self, crop: Crop, *, progress: Progress = no_progress, cancel: Cancel = never_cancel
    ) -> FloatArray:
        """The crop's normals, float32 (h, w, 3), unit; only the texels in the hole matter.

        Raises:
            InpaintError: As `ensure_started`, or what `fill_crop` raised in the worker, `disk_full`,
                `not_writable`, `bad_result`.
        """
        with self._one_job(), self._request_folder(cancel, progress) as (process, number, folder):
            arrays = crop.arrays()
            with _storage(process.job_dir):
                for name, array in arrays.items():
                    kind = protocol.CROP_TYPES[name]
                    protocol.write_array(folder / f"{name}.npy", np.asarray(array, dtype=kind))
            shapes = {name: list(array.shape) for name, array in arrays.items()}
            request = protocol.Fill(number, folder.name, shapes, crop.fields())
            self._ask(process, request, progress, cancel)
            try:
                result: FloatArray = protocol.read_array(
                    folder / "result.npy", (*crop.hole.shape, 3), "<f4"
                ).astype(np.float32, copy=False)
                _check_unit(result, crop.hole & crop.valid)
            except ValueError as error:
                raise self._damaged(process, error) from error
            return result

    def write_map(
        self,
        path: Path,
        pixels: Pixels,
        form: str | None = None,
        *,
        progress: Progress = no_progress,
        cancel: Cancel = never_cancel,
    ) -> None:
        """Let the worker write an image file: `core.files.write_map`. See `for_files`.

        Args:
            path: Where to; its ending says which format, unless `form` does.
            pixels: (H, W, C), uint8, uint16, float16 or float32, top row first.
            form: "png", "tiff", "exr", "tga" or "bmp".
            progress: Told how far it is.
            cancel: Polled while waiting; an old file is then still whole.

        Raises:
            InpaintError: As `fill`; `unsupported_format`, `not_writable`, `disk_full`.
        """
        with self.for_files() as client:
            client._write_map(path, pixels, form, progress, cancel)

    def _write_map(
        self, path: Path, pixels: Pixels, form: str | None, progress: Progress, cancel: Cancel
    ) -> None:
        with self._one_job(), self._request_folder(cancel, progress) as (process, number, folder):
            little = pixels.dtype.newbyteorder("<").str
            with _storage(process.job_dir):
                protocol.write_array(folder / "pixels.npy", pixels.astype(little, copy=False))
            path = Path(path).absolute()
            request = protocol.WriteMap(number, folder.name, pixels.shape, little, str(path), form or "")
            try:
                self._ask(process, request, progress, cancel)
            finally:
                if not process.running and process.hello is not None:
                    # What `core.files.write_map` writes beside its target and could not move or remove.
                    beside = path.with_name(f".{path.stem}.{process.hello.pid}{path.suffix}")
                    with contextlib.suppress(OSError):
                        beside.unlink(missing_ok=True)

    def read_map(
        self, path: Path, *, progress: Progress = no_progress, cancel: Cancel = never_cancel
    ) -> Pixels:
        """Let the worker read a normal map with the bits its file has. See `for_files`.

        Raises:
            InpaintError: As `fill`, or as `core.files.read_map`.
        """
        with self.for_files() as client:
            return client._read(path, False, progress, cancel)

    def read_mask(
        self, path: Path, *, progress: Progress = no_progress, cancel: Cancel = never_cancel
    ) -> BoolArray:
        """Let the worker read a mask: bool (H, W). See `for_files`.

        Raises:
            InpaintError: As `fill`, or as `core.files.read_mask`.
        """
        with self.for_files() as client:
            return client._read(path, True, progress, cancel)

    def _read(self, path: Path, mask: bool, progress: Progress, cancel: Cancel) -> NDArray[Any]:
        with self._one_job(), self._request_folder(cancel, progress) as (process, number, folder):
            request = protocol.ReadMap(number, folder.name, str(Path(path).absolute()), mask)
            self._ask(process, request, progress, cancel)
            try:
                return protocol.read_pixels(folder / "pixels.npy", mask=mask)
            except ValueError as error:
                raise self._damaged(process, error) from error

    @contextlib.contextmanager
    def for_files(self) -> Iterator[WorkerClient]:
        """A client whose worker reads and writes image files, away from Blender's own image library.

        This one if its worker runs and can. Where none runs, or one whose Python lacks OpenImageIO, another,
        on Blender's own Python and without a network, which ends with the context.

        Raises:
            InpaintError: `busy`.
        """
        if self._job.locked():
            raise InpaintError("busy")
        hello = self.hello if self.alive else None
        if self.options.engine == _NO_ENGINE or (hello is not None and hello.handles_files):
            yield self
            return
        own = self.options.fallback_python or self.options.python
        options = replace(self.options, python=own, fallback_python=None, engine=_NO_ENGINE)
        with WorkerClient(options) as other:
            yield other

    def close(self) -> None:
        """End the worker now, even in the middle of a job; the next call would start another."""
        with self._swap:
            self._closes += 1
            process, self._process = self._process, None
        if process is not None:
            # A job that waits for an answer will get none: no reason to be patient.
            process.stop(kill=self._job.locked())

    def __enter__(self) -> WorkerClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Starting ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _one_job(self) -> Iterator[None]:
        if not self._job.acquire(blocking=False):
            raise InpaintError("busy")
        try:
            yield
        finally:
            self._job.release()

    def _ensure(self, cancel: Cancel) -> _Process:
        if cancel():
            raise Cancelled()
        process = self._process
        if process is not None and process.hello is not None and process.running:
            return process
        options = self.options
        fallback = options.fallback_python
        if fallback is None:
            return self._launch(options, options.search_paths, cancel)
        if not self._fell_back and self._deaths >= _DEATHS:
            self._fell_back = "it ended unexpectedly several times in a row"
        if not self._fell_back:
            own = fallback == options.python
            try:
                return self._launch(options, options.search_paths if own else (), cancel)
            except Cancelled:
                raise
            except InpaintError as error:
                if own and options.engine != "torch":
                    raise  # "auto" has tried ONNX Runtime on this Python already
                first = error
                self._fell_back = error.message.rstrip(".")
        else:
            first = InpaintError("worker_start", f"{self._fell_back}.")
        try:
            return self._launch(
                replace(options, python=fallback, engine="onnx", device=None),
                options.search_paths,
                cancel,
                f"{options.python} is not used, but ONNX Runtime on Blender's own Python: {self._fell_back}.",
            )
        except Cancelled:
            raise
        except InpaintError as error:
            self._fell_back = ""  # nothing works: start over with the user's choice next time
            detail = f"{error.detail}\n\nBefore that, on {options.python}: {first.message}\n{first.detail}"
            raise InpaintError(error.code, error.message, error.hint, detail.strip()) from error

    def _launch(
        self, options: WorkerOptions, search_paths: tuple[Path, ...], cancel: Cancel, notice: str = ""
    ) -> _Process:
        with self._swap:
            closes = self._closes
            self._forget()
        process = _Process(self._command(options, search_paths), options, self._log)
        with self._swap:
            if closes != self._closes:  # closed meanwhile
                process.stop(kill=True)
                raise Cancelled()
            self._process = process
            self._finalizer = weakref.finalize(self, process.stop, kill=True)
        try:
            hello = self._await_hello(process, options, cancel)
        except BaseException:
            process.stop(kill=True)
            raise
        if notice:
            hello = replace(hello, notices=(notice, *hello.notices))
        process.hello = self.hello = hello
        self.device = hello.device
        self._notices += hello.notices
        return process

    def _forget(self) -> None:
        """Clear away the last process; called with `_swap` held."""
        if self._finalizer is not None:
            self._finalizer.detach()
            self._finalizer = None
        if self._process is not None:
            self._process.stop(kill=True)
            self._process = None
        self.hello = None

    @staticmethod
    def _command(options: WorkerOptions, search_paths: tuple[Path, ...]) -> list[str]:
        package = options.package_dir.resolve()
        foreign = options.fallback_python is not None and options.python != options.fallback_python
        command = [str(options.python)]
        if not foreign:
            # Blender's Python must not pick up what the user once installed for another program. A Python
            # that the user named is taken as it is: its PyTorch may well be a user's installation.
            command.append("-s")
        # Nothing may be written in the package's folder, so no bytecode.
        command += ["-u", "-B", "-X", "utf8", str(package / "worker" / "boot.py")]
        command += ["--package-dir", str(package), "--engine", options.engine]
        for folder in search_paths:
            command += ["--path", str(folder.resolve())]
        if options.device:
            command += ["--device", options.device]
        if options.weights:
            command += ["--weights", str(options.weights.resolve())]
        if options.threads:
            command += ["--threads", str(options.threads)]
        return command

    def _await_hello(self, process: _Process, options: WorkerOptions, cancel: Cancel) -> Hello:
        deadline = time.monotonic() + options.start_timeout
        noise = 0
        while True:
            if cancel():
                raise Cancelled()
            left = deadline - time.monotonic()
            if left <= 0 or noise > _NOISE_LINES:
                raise InpaintError(
                    "worker_timeout",
                    f"The Python at {options.python} did not start the worker within "
                    f"{options.start_timeout:g} seconds.",
                    "Try again, raise the deadline in the preferences, or choose another Python.",
                    process.log.describe(),
                )
            item = process.receive(min(left, _POLL))
            if item is None:
                continue
            if isinstance(item, _End):
                if process.closed.is_set():
                    raise Cancelled()
                raise InpaintError(
                    "worker_start",
                    f"The Python at {options.python} ended before the worker was ready.",
                    "Check the Python chosen in the preferences; the details hold its last words.",
                    process.last_words(),
                )
            if not item.startswith(b'{"type"'):
                noise += 1
                process.log.write(item)
                continue
            answer = self._understand(process, item)
            if isinstance(answer, protocol.StartFailed):
                error = InpaintError.from_dict(answer.error)
                error.detail = f"{error.detail}\n{process.log.describe()}".strip()
                raise error
            if not isinstance(answer, Hello):
                raise self._nonsense(process, f"{type(answer).__name__} before its hello")
            return answer

    # Asking ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _request_folder(self, cancel: Cancel, progress: Progress) -> Iterator[tuple[_Process, int, Path]]:
        if not self.alive:
            progress(0.0, "Starting the engine")
        process = self._ensure(cancel)
        self._number += 1
        folder = process.job_dir / f"r{self._number}"
        try:
            with _storage(process.job_dir):
                folder = process.make_folder(self._number)
            yield process, self._number, folder
        except InpaintError as error:
            if process.closed.is_set() and error.code in ("disk_full", "not_writable"):
                raise Cancelled() from error  # the folder went with the worker
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if process.closed.is_set():
                shutil.rmtree(process.job_dir, ignore_errors=True)

    def _ask(
        self,
        process: _Process,
        request: protocol.Work,
        progress: Progress,
        cancel: Cancel,
    ) -> None:
        """Send one request and wait for its end."""
        ended = False
        try:
            if not process.send(request):
                raise self._died(process)
            answer = self._wait(process, request.id, progress, cancel)
            ended = True
            if isinstance(answer, protocol.Failed):
                error = InpaintError.from_dict(answer.error)
                if isinstance(error, Cancelled):
                    raise self._nonsense(process, "a cancel that nobody asked for")
                raise error
            self._deaths = 0
            self.device = answer.device
            self._notices += answer.notices
        except InpaintError as error:
            if error.code == "worker_died":
                self._deaths += 1
            if error.code in _FATAL:
                process.stop(kill=True)
            raise
        finally:
            if not ended and process.running:
                # The caller's own exception: what the worker still says about this is dropped by its id.
                process.send(protocol.Cancel(request.id))

    def _wait(
        self, process: _Process, number: int, progress: Progress, cancel: Cancel
    ) -> protocol.Done | protocol.Failed:
        options = self.options
        started = heard = time.monotonic()
        cancelled: float | None = None
        while True:
            now = time.monotonic()
            if cancelled is None and cancel():
                cancelled = now
                process.send(protocol.Cancel(number))
            if cancelled is not None and now - cancelled > options.cancel_grace:
                process.stop(kill=True)
                raise Cancelled()
            if cancelled is None:
                self._check_deadlines(process, now - started, now - heard)
            item = process.receive(_POLL)
            if item is None:
                continue
            if isinstance(item, _End):
                if cancelled is not None:
                    process.stop(kill=True)
                    raise Cancelled()
                raise self._died(process)
            answer = self._understand(process, item)
            if isinstance(answer, Hello | protocol.StartFailed) or answer.id > number:
                raise self._nonsense(process, f"{type(answer).__name__} out of turn")
            if answer.id < number:
                continue  # belongs to a request that was given up
            heard = now
            if not isinstance(answer, protocol.Progress):
                if cancelled is not None:
                    raise Cancelled()  # whatever the answer is: nobody wants it any more
                return answer
            if cancelled is None:
                progress(answer.fraction, answer.text)

    def _check_deadlines(self, process: _Process, total: float, silent: float) -> None:
        if total <= self.options.request_timeout and silent <= self.options.stall_timeout:
            return
        detail = process.log.describe()
        process.stop(kill=True)
        if silent > self.options.stall_timeout:
            what = f"The worker made no progress for {silent:.0f} seconds and was stopped."
        else:
            what = f"The worker was not done after {total:.0f} seconds and was stopped."
        raise InpaintError("worker_timeout", what, detail=detail)

    def _died(self, process: _Process) -> InpaintError:
        if process.closed.is_set():
            return Cancelled()
        words = process.last_words()
        process.stop(kill=True)
        return InpaintError("worker_died", detail=words)

    def _understand(self, process: _Process, line: bytes) -> protocol.Answer:
        try:
            return protocol.decode_answer(line)
        except protocol.ProtocolError as error:
            raise self._nonsense(process, str(error)) from error

    @staticmethod
    def _damaged(process: _Process, error: ValueError) -> InpaintError:
        """An array that is not what was asked for; the worker is stopped."""
        detail = f"{error}\n{process.log.describe()}"
        process.stop(kill=True)
        return InpaintError("bad_result", detail=detail)

    def _nonsense(self, process: _Process, what: str) -> InpaintError:
        detail = f"{what}\n{process.log.describe()}".strip()
        process.stop(kill=True)
        return InpaintError("worker_protocol", detail=detail)


@contextlib.contextmanager
def _storage(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise protocol.storage_error(error, "the crop", folder) from error


def _check_unit(result: FloatArray, hole: BoolArray) -> None:
    """Only the hole is used, so only there must the result be unit normals."""
    squares = np.einsum("ij,ij->i", result[hole], result[hole])
    if not np.isfinite(squares).all():
        raise ValueError("the result holds numbers that are not finite")
    if squares.size and float(np.abs(squares - 1.0).max()) > 1e-2:
        raise ValueError("the result holds vectors that are not of unit length")

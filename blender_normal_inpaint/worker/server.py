"""The worker's side: loads one engine, then serves requests until the client closes its end."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import queue
import shutil
import sys
import threading
import time
import traceback
from argparse import Namespace
from pathlib import Path
from typing import IO, NoReturn

import numpy as np

from ..core.engine import Crop
from ..core.errors import Cancelled, InpaintError
from ..core.files import read_map, read_mask, write_map
from ..core.fill import fill_crop
from . import protocol
from .engines import LoadedEngine, create_engine, weights_kind

#: Progress more often than this is noise.
_PROGRESS_EVERY = 0.03
#: How often the worker looks whether its parent still lives (a second guard: normally stdin ends).
_PARENT_EVERY = 2.0


def serve(requests: IO[bytes], answers: IO[bytes], options: Namespace, notices: list[str]) -> int:
    """Say hello, then answer requests one after the other.

    Args:
        requests: Where the client's lines come from; its end is the order to leave.
        answers: Where to write; nothing else writes there.
        options: What `boot.parse` made of the command line.
        notices: Sentences for the user, passed on in the hello.
    """
    server = _Server(requests, answers, options)
    server.watch()
    return server.run(notices)


class _Server:
    def __init__(self, requests: IO[bytes], answers: IO[bytes], options: Namespace) -> None:
        self._requests = requests
        self._answers = answers
        self._options = options
        self._job_dir = Path(options.job_dir)
        self._writing = threading.Lock()
        self._queue: queue.SimpleQueue[protocol.Work] = queue.SimpleQueue()
        self._cancelled: set[int] = set()
        self._engine: LoadedEngine | None = None

    # Leaving, reading, writing -----------------------------------------------------------------------

    def _leave(self, status: int) -> NoReturn:
        """End the process at once, from any thread, without waiting for native code."""
        shutil.rmtree(self._job_dir, ignore_errors=True)
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(status)

    def watch(self) -> None:
        """Start the threads that read requests and notice the parent's death."""
        threading.Thread(target=self._read, name="requests", daemon=True).start()
        if os.name == "posix":
            # A process that the parent forked may hold the pipe open after the parent is gone.
            threading.Thread(target=self._watch_parent, args=(os.getppid(),), daemon=True).start()

    def _watch_parent(self, parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_EVERY)
        self._leave(0)

    def _read(self) -> None:
        try:
            while line := self._requests.readline(protocol.MAX_LINE):
                request = protocol.decode_request(line)
                if isinstance(request, protocol.Cancel):
                    self._cancelled.add(request.id)
                else:
                    self._queue.put(request)
        except Exception:
            # A client that breaks the protocol cannot be answered: it ends with this process.
            traceback.print_exc()
            self._leave(2)
        self._leave(0)

    def _send(self, answer: protocol.Answer) -> None:
        try:
            with self._writing:
                self._answers.write(protocol.encode(answer))
                self._answers.flush()
        except OSError:
            self._leave(0)  # nobody listens any more

    # Work --------------------------------------------------------------------------------------------

    def run(self, notices: list[str]) -> int:
        options = self._options
        try:
            if options.engine != "none":
                card = Path(options.weights) if options.weights else None
                self._engine, more = create_engine(
                    options.engine, device=options.device, card_path=card, threads=options.threads
                )
                notices = notices + more
        except Exception as error:
            traceback.print_exc()
            self._send(protocol.StartFailed(_explain(error, self._job_dir).to_dict()))
            return 1
        self._send(self._hello(notices))
        while True:
            request = self._queue.get()
            try:
                if request.id in self._cancelled:
                    raise Cancelled()
                if isinstance(request, protocol.Fill):
                    self._fill(request)
                elif isinstance(request, protocol.WriteMap):
                    self._write_map(request)
                else:
                    self._read_map(request)
                answer: protocol.Answer = protocol.Done(request.id, *self._state())
            except Exception as error:
                if not isinstance(error, Cancelled):
                    traceback.print_exc()
                answer = protocol.Failed(request.id, _explain(error, self._job_dir).to_dict())
            self._send(answer)

    def _hello(self, notices: list[str]) -> protocol.Hello:
        engine = self._engine
        weights = engine.card.files.get(weights_kind(engine)) if engine else None
        return protocol.Hello(
            protocol=protocol.VERSION,
            engine=engine.name if engine else "none",
            device=engine.device if engine else "",
            model=f"{engine.card.name} {engine.card.version}" if engine else "",
            weights_sha256=weights.sha256 if weights else "",
            python=f"{sys.executable} ({platform.python_version()})",
            pid=os.getpid(),
            handles_files=importlib.util.find_spec("OpenImageIO") is not None,
            notices=tuple(notices),
        )

    def _state(self) -> tuple[str, tuple[str, ...]]:
        if self._engine is None:
            return "", ()
        return self._engine.device, tuple(self._engine.take_notices())

    def _fill(self, request: protocol.Fill) -> None:
        if self._engine is None:
            raise InpaintError("engine_unavailable", "This worker was started without an engine.")
        folder = self._job_dir / request.folder
        arrays = {
            name: protocol.read_array(folder / f"{name}.npy", tuple(shape), protocol.CROP_TYPES[name])
            for name, shape in request.arrays.items()
        }
        crop = Crop.from_parts(arrays, request.fields)
        last = 0.0

        def progress(fraction: float, text: str) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _PROGRESS_EVERY:
                last = now
                self._send(protocol.Progress(request.id, min(max(float(fraction), 0.0), 1.0), str(text)))

        result = fill_crop(
            crop, self._engine, progress=progress, cancel=lambda: request.id in self._cancelled
        )
        if request.id in self._cancelled:
            raise Cancelled()
        protocol.write_array(folder / "result.npy", np.asarray(result, dtype="<f4"))

    def _write_map(self, request: protocol.WriteMap) -> None:
        path = self._job_dir / request.folder / "pixels.npy"
        pixels = protocol.read_array(path, request.shape, request.dtype)
        self._send(protocol.Progress(request.id, 0.2, f"Writing {Path(request.path).name}"))
        write_map(Path(request.path), pixels, request.form or None)

    def _read_map(self, request: protocol.ReadMap) -> None:
        path = Path(request.path)
        pixels = read_mask(path) if request.mask else read_map(path).pixels
        little = pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)
        protocol.write_array(self._job_dir / request.folder / "pixels.npy", little)


def _explain(error: Exception, job_dir: Path) -> InpaintError:
    """Any exception as an `InpaintError` that carries this process's traceback as text."""
    if isinstance(error, Cancelled):
        return error
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, InpaintError):
        detail = f"{error.detail}\n{trace}".strip()
        return InpaintError(error.code, error.message, error.hint, detail)
    if isinstance(error, MemoryError):
        return InpaintError("out_of_memory", detail=trace)
    if isinstance(error, OSError):
        known = protocol.storage_error(error, "the result", job_dir)
        return InpaintError(known.code, known.message, known.hint, f"{known.detail}\n{trace}")
    return InpaintError("internal", f"Something unexpected went wrong in the worker: {error}", detail=trace)

"""A worker that goes wrong on order: stands in for `boot.py` and takes the name of its fault as the engine.

Two kinds: faults that speak the protocol by hand, as a broken worker would; and faults that run the real
server around a network or a library that misbehaves.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import boot_real  # type: ignore[import-not-found]  # the product's boot.py, copied beside this file by the test

VALUES = {1: (0.0, 0.0, 1.0), 2: (1.0, 0.0, 0.0), 3: (0.0, 1.0, 0.0)}


def argument(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


JOB_DIR = Path(argument("--job-dir"))


def say(raw: bytes | dict[str, Any]) -> None:
    sys.stdout.buffer.write(raw if isinstance(raw, bytes) else json.dumps(raw).encode() + b"\n")
    sys.stdout.buffer.flush()


def hello(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "type": "hello",
        "protocol": 4,
        "engine": "onnx",
        "device": "CPU",
        "model": "none",
        "weights_sha256": "",
        "python": sys.executable,
        "pid": os.getpid(),
        "handles_files": False,
        "notices": [],
    }
    return fields | changes


def hear() -> dict[str, Any]:
    line = sys.stdin.buffer.readline()
    if not line:
        sys.exit(0)
    message: dict[str, Any] = json.loads(line)
    return message


def hear_fill() -> dict[str, Any]:
    while (message := hear())["type"] != "fill":
        pass
    return message


def done(number: int) -> dict[str, Any]:
    return {"type": "done", "id": number, "device": "CPU", "notices": []}


def write_result(request: dict[str, Any], **changes: Any) -> Path:
    import numpy as np

    shape = changes.get("shape", request["arrays"]["normals"])
    array = np.empty(shape, changes.get("dtype", np.float32))
    array[...] = changes.get("value", VALUES[request["id"]])
    path = JOB_DIR / str(request["folder"]) / "result.npy"
    np.save(path, array, allow_pickle=bool(changes.get("pickle")))
    return path


def die() -> NoReturn:
    sys.stderr.write("these are my last words\n")
    sys.stderr.flush()
    if sys.platform == "win32":
        os._exit(9)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def sleep_for_ever() -> NoReturn:
    while True:
        time.sleep(60)


# Spoken by hand ---------------------------------------------------------------------------------------


def exit_at_once() -> None:
    sys.stderr.write("no such library: libworker.so\n")
    sys.exit(3)


def killed_before_hello() -> None:
    die()


def no_hello() -> None:
    sleep_for_ever()


def noise_without_end() -> None:
    while True:
        say(b"Welcome to my Python\n")


def other_version() -> None:
    say(hello(protocol=999))
    sleep_for_ever()


def broken_hello() -> None:
    message = hello()
    del message["engine"]
    say(message)
    sleep_for_ever()


def start_failed() -> None:
    say({"type": "start_failed", "error": {"code": "weights_damaged", "message": "Bad weights."}})


def killed_in_request() -> None:
    say(hello())
    hear_fill()
    die()


def killed_while_writing() -> None:
    say(hello())
    path = write_result(hear_fill())
    data = path.read_bytes()
    path.unlink()
    path.with_name("result.npy.part").write_bytes(data[: len(data) // 2])
    die()


def no_answer() -> None:
    say(hello())
    hear_fill()
    sleep_for_ever()


def only_progress() -> None:
    say(hello())
    request = hear_fill()
    while True:
        say({"type": "progress", "id": request["id"], "fraction": 0.5, "text": "still there"})
        time.sleep(0.02)


def garbage() -> None:
    say(hello())
    hear_fill()
    say(b"\xff\x00 segmentation of nothing\n")
    sleep_for_ever()


def endless_line() -> None:
    say(hello())
    hear_fill()
    say(b"x" * (3 << 20))
    sleep_for_ever()


def deep_json() -> None:
    say(hello())
    hear_fill()
    say(b"[" * 200_000 + b"\n")
    sleep_for_ever()


def answer_from_the_future() -> None:
    say(hello())
    say(done(hear_fill()["id"] + 1))
    sleep_for_ever()


def uncalled_cancel() -> None:
    say(hello())
    say({"type": "failed", "id": hear_fill()["id"], "error": {"code": "cancelled"}})
    sleep_for_ever()


def with_result(**changes: Any) -> Callable[[], None]:
    def fault() -> None:
        say(hello())
        request = hear_fill()
        write_result(request, **changes)
        say(done(request["id"]))
        hear()

    return fault


def truncated_result() -> None:
    say(hello())
    request = hear_fill()
    path = write_result(request)
    path.write_bytes(path.read_bytes()[:-8])
    say(done(request["id"]))
    hear()


def longer_result() -> None:
    say(hello())
    request = hear_fill()
    path = write_result(request)
    path.write_bytes(path.read_bytes() + b"more")
    say(done(request["id"]))
    hear()


def missing_result() -> None:
    say(hello())
    say(done(hear_fill()["id"]))
    hear()


def late_answer() -> None:
    """Does not heed the first cancel, and answers that request only when the next one has come."""
    say(hello())
    first = hear_fill()
    say({"type": "progress", "id": first["id"], "fraction": 0.1, "text": "working"})
    second = hear_fill()
    say({"type": "progress", "id": first["id"], "fraction": 0.9, "text": "late"})
    folder = JOB_DIR / first["folder"]
    folder.mkdir(exist_ok=True)
    write_result(first)
    say(done(first["id"]))
    time.sleep(0.2)
    write_result(second)
    say(done(second["id"]))
    hear()


def answers_a_cancel_with_success() -> None:
    say(hello())
    while True:
        request = hear_fill()
        if request["id"] == 1:
            hear()  # the cancel
        write_result(request)
        say(done(request["id"]))


def will_not_leave() -> None:
    if hasattr(signal, "SIGTERM"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    say(hello())
    sleep_for_ever()


def with_child() -> None:
    """A worker with a child process of its own, whose number is its device; then it hangs."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdout=2)
    say(hello(device=str(child.pid)))
    hear_fill()
    sleep_for_ever()


def much_on_stderr() -> None:
    say(hello())
    request = hear_fill()
    for _ in range(300):
        sys.stderr.write("a warning about nothing\n" * 500)
    sys.stderr.flush()
    write_result(request)
    say(done(request["id"]))
    hear()


# The real server, with something around it that goes wrong ------------------------------------------


class Engine:
    """Stands in for a network: it fills with the normal that looks at the viewer."""

    name = "onnx"
    device = "CPU"

    def __init__(self) -> None:
        self.card = None

    def take_notices(self) -> list[str]:
        return ["It was a long day."]


def real(
    fill: Callable[..., Any] | None = None, write: Callable[..., Any] | None = None
) -> Callable[[], None]:
    def fault() -> None:
        requests, answers = boot_real.take_streams()
        answers.write(b"\n")
        options = boot_real.parse(sys.argv[1:])
        notices = boot_real.extend_path(options.path)
        boot_real.mount(options.package_dir)
        server = importlib.import_module(boot_real.PACKAGE + ".worker.server")

        class Card:
            name, version = "stand-in", "1"
            files: dict[str, Any] = {}  # noqa: RUF012

        engine = Engine()
        engine.card = Card  # type: ignore[assignment]
        engine_room: Any = server  # its names are replaced
        engine_room.create_engine = lambda *_, **__: (engine, ["Good morning."])
        engine_room.fill_crop = fill or plain
        engine_room.write_map = write or server.write_map
        sys.exit(server.serve(requests, answers, options, notices))

    return fault


def plain(crop: Any, engine: Any, *, progress: Any, cancel: Any) -> Any:
    result = crop.normals * 0
    result[..., 2] = 1
    progress(0.5, "half")
    return result


def noisy(crop: Any, engine: Any, *, progress: Any, cancel: Any) -> Any:
    print('{"type":"done","id":1,"device":"","notices":[]}', flush=True)
    os.write(1, b"native garbage \xff\xfe without a newline")
    sys.__stdout__.write("more")  # type: ignore[union-attr]
    subprocess.run([sys.executable, "-c", "print('a child speaks'); input()"], check=False)
    if sys.stdin.read(1):
        raise AssertionError("a library could read the client's requests")
    return plain(crop, engine, progress=progress, cancel=cancel)


def raises(error: Exception) -> Callable[..., Any]:
    def fill(*_: Any, **__: Any) -> Any:
        raise error

    return fill


def digest(crop: Any, engine: Any, *, progress: Any, cancel: Any) -> Any:
    """Sends everything back that it was given."""
    errors = importlib.import_module(boot_real.PACKAGE + ".core.errors")
    fields = crop.fields() | {name: array.tolist() for name, array in crop.arrays().items()}
    raise errors.InpaintError("no_context", json.dumps(fields, sort_keys=True))


def until_cancelled(crop: Any, engine: Any, *, progress: Any, cancel: Any) -> Any:
    if crop.seed == 1:
        progress(0.1, "working")
        while not cancel():
            time.sleep(0.01)
        errors = importlib.import_module(boot_real.PACKAGE + ".core.errors")
        raise errors.Cancelled()
    return plain(crop, engine, progress=progress, cancel=cancel)


def sleeps(crop: Any, engine: Any, *, progress: Any, cancel: Any) -> Any:
    progress(0.1, "working")
    time.sleep(600)


def disk_full(crop: Any, engine: Any, *, progress: Any, cancel: Any) -> Any:
    import resource

    if crop.seed == 1:  # the files of this process may not grow beyond one kilobyte
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return plain(crop, engine, progress=progress, cancel=cancel)


def dies_writing(path: Path, *_: Any) -> None:
    """As `core.files.write_map` would leave things if it were killed."""
    path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}").write_bytes(b"half")
    die()


FAULTS: dict[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        exit_at_once,
        killed_before_hello,
        no_hello,
        noise_without_end,
        other_version,
        broken_hello,
        start_failed,
        killed_in_request,
        killed_while_writing,
        no_answer,
        only_progress,
        garbage,
        endless_line,
        deep_json,
        answer_from_the_future,
        uncalled_cancel,
        truncated_result,
        longer_result,
        missing_result,
        late_answer,
        answers_a_cancel_with_success,
        will_not_leave,
        with_child,
        much_on_stderr,
    )
} | {
    "wrong_shape": with_result(shape=(5, 4, 3)),
    "wrong_dtype": with_result(dtype="float64"),
    "pickled_result": with_result(dtype=object, pickle=True),
    "nan_result": with_result(value=float("nan")),
    "long_vectors": with_result(value=2.0),
    "healthy": real(),
    "onnx": real(),  # what a fallback asks for
    "noisy": real(noisy),
    "dies_writing": real(write=dies_writing),
    "digest": real(digest),
    "raises": real(raises(RuntimeError("the network is tired"))),
    "no_memory": real(raises(MemoryError())),
    "until_cancelled": real(until_cancelled),
    "sleeps": real(sleeps),
    "disk_full": real(disk_full),
}


if __name__ == "__main__":
    FAULTS[argument("--engine")]()

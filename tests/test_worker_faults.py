"""Every way a worker can go wrong ends in one clear error, no process, no files, and a next call that works.

The workers here are real subprocesses that misbehave on order; see `fault_worker.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import blender_normal_inpaint
from blender_normal_inpaint.core.engine import Crop, Wide, no_progress
from blender_normal_inpaint.core.errors import Cancelled, InpaintError
from blender_normal_inpaint.worker.client import WorkerClient, WorkerOptions

PACKAGE = Path(blender_normal_inpaint.__file__).parent
posix_only = pytest.mark.skipif(os.name != "posix", reason="uses POSIX limits or signals")


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, in a folder with awkward letters, whose boot file goes wrong on order."""
    target = tmp_path_factory.mktemp("a wörker") / "Päckage mit Leerzeichen"
    for part in ("core", "worker"):
        shutil.copytree(PACKAGE / part, target / part, ignore=shutil.ignore_patterns("__pycache__"))
    (target / "worker" / "boot.py").rename(target / "worker" / "boot_real.py")
    shutil.copy(Path(__file__).parent / "fault_worker.py", target / "worker" / "boot.py")
    return target


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    folder = tmp_path / "temporäre Dateien"
    folder.mkdir()
    return folder


MakeClient = Callable[..., WorkerClient]


@pytest.fixture
def make(package: Path, jobs: Path, tmp_path: Path) -> Iterator[MakeClient]:
    """Clients whose leavings are checked when the test is over."""
    clients: list[WorkerClient] = []

    def make_client(fault: str, **changes: Any) -> WorkerClient:
        options = WorkerOptions(
            python=Path(sys.executable),
            package_dir=package,
            engine=fault,
            start_timeout=20.0,
            request_timeout=20.0,
            stall_timeout=20.0,
            cancel_grace=0.3,
            temp_dir=jobs,
            log_path=tmp_path / "log folder" / "worker.log",
        )
        clients.append(WorkerClient(replace(options, **changes)))
        return clients[-1]

    yield make_client
    pids = [client.hello.pid for client in clients if client.hello]
    for client in clients:
        client.close()
        client.close()
    assert list(jobs.iterdir()) == []
    for pid in pids:
        assert_gone(pid)


def is_running(pid: int) -> bool:
    if sys.platform == "win32":
        listed = subprocess.run(["tasklist", "/FI", f"PID eq {pid}"], capture_output=True, text=True).stdout
        return str(pid) in listed
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    # A zombie whose parent does not reap it (as in a bare container) no longer runs.
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")


def assert_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.02)


def make_crop(seed: int = 0, height: int = 6, width: int = 9) -> Crop:
    normals = np.zeros((height, width, 3), np.float32)
    normals[..., 2] = 1
    hole = np.zeros((height, width), bool)
    hole[2:4, 3:6] = True
    return Crop(normals, hole, np.ones_like(hole), "tangent", seed)


def make_wide_crop() -> Crop:
    """A crop whose context is another part of the map, of another size, with what the other half shows."""
    crop = make_crop(4)
    hole = np.zeros((5, 7), bool)
    normals = np.full((5, 7, 3), 0.25, np.float32)
    wide = Wide(normals, hole, ~hole, step=4, top=-8, left=-4, twin=normals + 0.5)
    twin = crop.normals - 0.5
    return replace(crop, space="camera", detail=False, wide=wide, twin=twin, pores=False)


def fails(client: WorkerClient, code: str, *, cancel: Callable[[], bool] = lambda: False) -> InpaintError:
    with pytest.raises(InpaintError) as caught:
        client.fill(make_crop(1), progress=no_progress, cancel=cancel)
    assert caught.value.code == code, caught.value.to_dict()
    assert caught.value.message
    assert caught.value.hint
    return caught.value


def switch(client: WorkerClient, fault: str) -> None:
    """Let the client's next worker behave otherwise."""
    client.options = replace(client.options, engine=fault)


def at_work(started: threading.Event) -> Callable[[float, str], None]:
    """A `Progress` that sets the event once the worker says that it works."""

    def progress(_: float, text: str) -> None:
        if text == "working":
            started.set()

    return progress


def works(client: WorkerClient) -> None:
    result = client.fill(make_crop(2))
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, np.broadcast_to(np.array([0, 0, 1], np.float32), (6, 9, 3)))


# The healthy worker -----------------------------------------------------------------------------------


def test_a_healthy_worker_fills_reports_and_stays(make: MakeClient, jobs: Path) -> None:
    client = make("healthy")
    assert not client.alive
    assert client.hello is None
    seen: list[tuple[float, str]] = []
    works(client)
    hello = client.hello
    assert hello is not None
    assert client.alive
    assert hello.notices == ("Good morning.",)
    client.fill(make_crop(3), progress=lambda fraction, text: seen.append((fraction, text)))
    assert seen == [(0.5, "half")]
    assert client.ensure_started() is hello
    assert client.take_notices() == ["Good morning.", "It was a long day.", "It was a long day."]
    assert client.take_notices() == []
    (folder,) = jobs.iterdir()
    assert list(folder.glob("r*")) == []  # each request's arrays are gone with it
    if os.name == "posix":
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert os.getpgid(hello.pid) == hello.pid  # Ctrl-C in our terminal does not reach it
    client.close()
    assert not client.alive
    assert_gone(hello.pid)
    works(client)  # closing is not the end
    assert client.hello is not hello


def test_every_part_of_a_crop_arrives(make: MakeClient) -> None:
    client = make("digest")
    for crop in (make_crop(5), make_wide_crop()):
        with pytest.raises(InpaintError) as caught:
            client.fill(crop)
        fields = crop.fields() | {name: array.tolist() for name, array in crop.arrays().items()}
        assert caught.value.message == json.dumps(fields, sort_keys=True)


def test_a_client_matches_only_its_own_options(make: MakeClient) -> None:
    client = make("healthy")
    assert client.matches(replace(client.options))
    assert not client.matches(replace(client.options, device="cpu"))


def test_a_dropped_client_takes_its_worker_along(make: MakeClient, package: Path, jobs: Path) -> None:
    client = WorkerClient(
        WorkerOptions(python=Path(sys.executable), package_dir=package, engine="healthy", temp_dir=jobs)
    )
    pid = client.ensure_started().pid
    del client
    assert_gone(pid)
    assert list(jobs.iterdir()) == []


def test_a_swept_job_folder_is_made_again(make: MakeClient, jobs: Path) -> None:
    client = make("healthy")
    works(client)
    (folder,) = jobs.iterdir()
    shutil.rmtree(folder)
    works(client)


# Before hello -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("exit_at_once", "worker_start", "libworker.so"),
        ("killed_before_hello", "worker_start", "last words"),
        ("other_version", "worker_protocol", "version 999"),
        ("broken_hello", "worker_protocol", "lacks engine"),
        ("noise_without_end", "worker_timeout", "Welcome to my Python"),
        ("start_failed", "weights_damaged", ""),
    ],
)
def test_a_worker_that_does_not_start(
    make: MakeClient, jobs: Path, fault: str, code: str, words: str
) -> None:
    client = make(fault)
    error = fails(client, code)
    assert words in error.detail
    assert "worker.log" in error.detail
    assert not client.alive
    assert list(jobs.iterdir()) == []
    switch(client, "healthy")
    works(client)


def test_no_hello_within_the_deadline(make: MakeClient, jobs: Path) -> None:
    client = make("no_hello", start_timeout=0.5)
    error = fails(client, "worker_timeout")
    assert "0.5 seconds" in error.message
    assert list(jobs.iterdir()) == []


def test_a_start_can_be_cancelled(make: MakeClient, jobs: Path) -> None:
    client = make("no_hello")
    until = time.monotonic() + 0.3
    fails(client, "cancelled", cancel=lambda: time.monotonic() > until)
    assert list(jobs.iterdir()) == []


@pytest.mark.parametrize("name", ["no such python", "not a program"])
def test_a_python_that_is_none(make: MakeClient, tmp_path: Path, jobs: Path, name: str) -> None:
    python = tmp_path / name
    if name == "not a program":
        python.write_bytes(b"\x00\x01\x02 nothing to run")
        python.chmod(0o755)
    client = make("healthy", python=python)
    error = fails(client, "worker_start")
    assert str(python) in error.message
    assert list(jobs.iterdir()) == []


# During a request -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("killed_in_request", "worker_died", "last words"),
        ("killed_while_writing", "worker_died", "last words"),
        ("garbage", "worker_protocol", "segmentation"),
        ("endless_line", "worker_protocol", "not a line of JSON"),
        ("deep_json", "worker_protocol", "not a line of JSON"),
        ("answer_from_the_future", "worker_protocol", "out of turn"),
        ("uncalled_cancel", "worker_protocol", "nobody asked"),
        ("truncated_result", "bad_result", "cut short"),
        ("longer_result", "bad_result", "longer"),
        ("missing_result", "bad_result", "cannot be read"),
        ("wrong_shape", "bad_result", "holds (5, 4, 3)"),
        ("wrong_dtype", "bad_result", "float64"),
        ("pickled_result", "bad_result", "object"),
        ("nan_result", "bad_result", "finite"),
        ("long_vectors", "bad_result", "unit length"),
        ("raises", "internal", "RuntimeError: the network is tired"),
        ("no_memory", "out_of_memory", "MemoryError"),
    ],
)
def test_a_request_that_goes_wrong(make: MakeClient, jobs: Path, fault: str, code: str, words: str) -> None:
    client = make(fault)
    error = fails(client, code)
    assert words in error.detail
    assert client.hello is not None
    assert not client.alive
    assert_gone(client.hello.pid)
    assert list(jobs.iterdir()) == []
    switch(client, "healthy")
    works(client)


def test_a_worker_killed_while_it_writes_a_file_leaves_the_old_one(make: MakeClient, tmp_path: Path) -> None:
    client = make("dies_writing")
    client.ensure_started()
    target = tmp_path / "result.png"
    target.write_bytes(b"the old file")
    with pytest.raises(InpaintError) as caught:
        client.write_map(target, np.zeros((16, 16, 3), np.uint8))
    assert caught.value.code == "worker_died"
    assert target.read_bytes() == b"the old file"
    assert not list(tmp_path.glob(".*"))


def test_an_answer_that_never_comes(make: MakeClient) -> None:
    client = make("no_answer", stall_timeout=0.5)
    assert "no progress" in fails(client, "worker_timeout").message
    assert not client.alive


def test_progress_without_end(make: MakeClient) -> None:
    client = make("only_progress", stall_timeout=0.5, request_timeout=1.2)
    assert "not done" in fails(client, "worker_timeout").message
    assert not client.alive


def test_a_noisy_library_disturbs_nothing(make: MakeClient, tmp_path: Path) -> None:
    client = make("noisy")
    works(client)
    works(client)
    client.close()
    log = (tmp_path / "log folder" / "worker.log").read_bytes()
    assert b"native garbage" in log
    assert b"a child speaks" in log


def test_a_flooded_stderr_neither_blocks_nor_fills_the_disk(make: MakeClient, tmp_path: Path) -> None:
    client = make("much_on_stderr")
    client.fill(make_crop())
    client.close()
    for path in (tmp_path / "log folder").iterdir():
        assert path.stat().st_size <= 1 << 20
    assert (tmp_path / "log folder" / "worker.log.old").exists()


def test_a_log_that_cannot_be_written_is_no_reason_to_fail(make: MakeClient, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    works(make("healthy", log_path=tmp_path / "a file" / "worker.log"))


@posix_only
def test_a_disk_that_fills_up_under_the_result(make: MakeClient) -> None:
    client = make("disk_full")
    with pytest.raises(InpaintError) as caught:
        client.fill(make_crop(1, 100, 100))
    assert caught.value.code == "disk_full"
    assert client.hello is not None
    assert client.alive  # nothing is wrong with the worker
    assert_no_files_in_requests(client)
    works(client)


@posix_only
def test_a_disk_that_fills_up_under_the_crop(make: MakeClient) -> None:
    import resource

    client = make("healthy", log_path=None)
    client.ensure_started()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(InpaintError) as caught:
            client.fill(make_crop(1, 100, 100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.code == "disk_full"
    assert_no_files_in_requests(client)
    works(client)


def assert_no_files_in_requests(client: WorkerClient) -> None:
    temp_dir = client.options.temp_dir
    assert temp_dir is not None
    (folder,) = temp_dir.iterdir()
    assert list(folder.glob("r*")) == []


@posix_only
def test_a_temporary_folder_that_is_not_there(make: MakeClient, tmp_path: Path) -> None:
    error = fails(make("healthy", temp_dir=tmp_path / "not there"), "not_writable")
    assert "not there" in error.detail


# Cancelling -------------------------------------------------------------------------------------------


def test_a_cancel_is_heeded_and_the_worker_stays(make: MakeClient) -> None:
    client = make("until_cancelled", cancel_grace=10.0)
    started = threading.Event()
    with pytest.raises(Cancelled):
        client.fill(make_crop(1), progress=at_work(started), cancel=started.is_set)
    assert client.alive
    hello = client.hello
    works(client)
    assert client.hello is hello


def test_a_cancel_before_the_start_starts_nothing(make: MakeClient, jobs: Path) -> None:
    client = make("healthy")
    fails(client, "cancelled", cancel=lambda: True)
    assert client.hello is None
    assert list(jobs.iterdir()) == []


@pytest.mark.parametrize("fault", ["no_answer", "sleeps"])
def test_a_cancel_that_is_not_heeded_kills_after_the_grace(make: MakeClient, fault: str) -> None:
    client = make(fault)
    client.ensure_started()
    polls = iter([False, False, True])
    fails(client, "cancelled", cancel=lambda: next(polls, True))
    assert client.hello is not None
    assert not client.alive
    assert_gone(client.hello.pid)
    switch(client, "healthy")
    works(client)


def test_a_success_that_crosses_the_cancel_is_thrown_away(make: MakeClient) -> None:
    client = make("answers_a_cancel_with_success", cancel_grace=10.0)
    client.ensure_started()
    polls = iter([False, True])
    fails(client, "cancelled", cancel=lambda: next(polls, True))
    assert client.alive
    second = client.fill(make_crop(2))
    np.testing.assert_array_equal(second[0, 0], [1, 0, 0])  # what this worker answers to request 2


def test_the_late_answer_to_an_abandoned_request_is_not_the_next_ones(make: MakeClient) -> None:
    client = make("late_answer")

    def interrupted(fraction: float, text: str) -> None:
        if text == "working":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.fill(make_crop(1), progress=interrupted)
    assert client.alive
    seen: list[str] = []
    second = client.fill(make_crop(2), progress=lambda _, text: seen.append(text))
    np.testing.assert_array_equal(second[0, 0], [1, 0, 0])  # the second answer, not the first's (0, 0, 1)
    assert seen == []


def test_the_callers_own_cancel_inside_progress_stops_the_worker_too(make: MakeClient) -> None:
    client = make("until_cancelled")

    def stop(fraction: float, text: str) -> None:
        if text == "working":
            raise Cancelled()

    with pytest.raises(Cancelled):
        client.fill(make_crop(1), progress=stop)
    works(client)  # would time out if the worker still waited for its cancel


def test_only_one_job_at_a_time_and_close_ends_it(make: MakeClient, jobs: Path) -> None:
    client = make("sleeps")
    started = threading.Event()
    caught: list[BaseException] = []

    def job() -> None:
        try:
            client.fill(make_crop(1), progress=at_work(started))
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=job)
    thread.start()
    assert started.wait(20)
    assert client.hello is not None
    pid = client.hello.pid
    fails(client, "busy")
    client.close()
    thread.join(20)
    assert not thread.is_alive()
    assert [type(error) for error in caught] == [Cancelled]
    assert_gone(pid)
    assert list(jobs.iterdir()) == []


def test_close_during_the_start_ends_it(make: MakeClient, jobs: Path) -> None:
    client = make("no_hello")
    caught: list[BaseException] = []

    def job() -> None:
        try:
            client.ensure_started()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=job)
    thread.start()
    deadline = time.monotonic() + 20
    while not list(jobs.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    client.close()
    thread.join(20)
    assert not thread.is_alive()
    assert [type(error) for error in caught] == [Cancelled]
    assert list(jobs.iterdir()) == []


# Ends -------------------------------------------------------------------------------------------------


def test_a_worker_that_will_not_leave_is_killed(make: MakeClient, jobs: Path) -> None:
    client = make("will_not_leave")
    pid = client.ensure_started().pid
    client.close()
    assert_gone(pid)
    assert list(jobs.iterdir()) == []


@posix_only
def test_the_workers_own_children_are_killed_with_it(make: MakeClient) -> None:
    client = make("with_child", stall_timeout=0.3)
    child = int(client.ensure_started().device)
    assert is_running(child)
    fails(client, "worker_timeout")
    assert_gone(child)


@posix_only
@pytest.mark.parametrize("fault", ["healthy", "sleeps"])
def test_a_worker_whose_parent_is_killed_leaves_and_cleans_up(package: Path, jobs: Path, fault: str) -> None:
    program = f"""
import sys, numpy as np
from pathlib import Path
from blender_normal_inpaint.core.engine import Crop
from blender_normal_inpaint.worker.client import WorkerClient, WorkerOptions
client = WorkerClient(WorkerOptions(python=Path(sys.executable), package_dir=Path({str(package)!r}),
                                    engine={fault!r}, temp_dir=Path({str(jobs)!r})))
print(client.ensure_started().pid, flush=True)
hole = np.ones((4, 4), bool)
crop = Crop(np.zeros((4, 4, 3), np.float32), hole, hole)
client.fill(crop, progress=lambda fraction, text: print(text, flush=True))
print("idle", flush=True)
sys.stdin.read()
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=PACKAGE.parent,
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    pid = int(parent.stdout.readline())
    waiting_for = "working" if fault == "sleeps" else "idle"
    while parent.stdout.readline().strip() != waiting_for:
        pass
    assert list(jobs.iterdir()) != []
    parent.kill()
    parent.wait()
    parent.stdout.close()
    parent.stdin.close()
    assert_gone(pid)
    assert list(jobs.iterdir()) == []


def test_a_program_that_just_ends_leaves_nothing(package: Path, jobs: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from blender_normal_inpaint.worker.client import WorkerClient, WorkerOptions
client = WorkerClient(WorkerOptions(python=Path(sys.executable), package_dir=Path({str(package)!r}),
                                    engine="will_not_leave", temp_dir=Path({str(jobs)!r})))
print(client.ensure_started().pid)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=PACKAGE.parent, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert_gone(int(done.stdout))
    assert list(jobs.iterdir()) == []


# The fallback -----------------------------------------------------------------------------------------


@pytest.fixture
def other_python(tmp_path: Path) -> Path:
    """A Python that the user named and that does not work."""
    path = tmp_path / "my python"
    path.write_text("#!/bin/sh\necho no torch today >&2\nexit 1\n")
    path.chmod(0o755)
    return path


@posix_only
def test_a_named_python_that_does_not_start_is_replaced_with_a_notice(
    package: Path, jobs: Path, other_python: Path, make: MakeClient
) -> None:
    # The fallback asks for the engine "onnx": here that is the healthy worker.
    client = make("torch", python=other_python, fallback_python=Path(sys.executable))
    result = client.fill(make_crop(2))
    np.testing.assert_array_equal(result[0, 0], [0, 0, 1])
    assert client.hello is not None
    assert str(other_python) in client.hello.notices[0]
    assert "ONNX Runtime" in client.hello.notices[0]
    assert client.take_notices()[0] == client.hello.notices[0]
    assert len(list(jobs.iterdir())) == 1  # nothing is left of the failed start


@posix_only
def test_when_neither_python_starts_both_are_named(
    make: MakeClient, tmp_path: Path, other_python: Path
) -> None:
    client = make("torch", python=other_python, fallback_python=tmp_path / "gone")
    error = fails(client, "worker_start")
    assert "gone" in error.message
    assert str(other_python) in error.detail
    assert "no torch today" in error.detail


@posix_only
def test_a_named_python_that_dies_twice_is_given_up(make: MakeClient, tmp_path: Path) -> None:
    wrapper = tmp_path / "my python"
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    wrapper.chmod(0o755)
    client = make("killed_in_request", python=wrapper, fallback_python=Path(sys.executable))
    fails(client, "worker_died")
    fails(client, "worker_died")
    works(client)
    assert client.hello is not None
    assert "several times" in client.hello.notices[0]

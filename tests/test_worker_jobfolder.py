"""Job folders: private, removed by their owner, and by the next one where both ends were killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blender_normal_inpaint.worker.jobfolder import JobFolder, remove_leftovers

ROOT = Path(__file__).resolve().parent.parent


def make_old(folder: Path) -> None:
    """As if it had been made an hour ago."""
    then = time.time() - 3600
    os.utime(folder / "owner.lock", (then, then))


def test_a_folder_is_private_and_goes_with_its_owner(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    assert folder.path.parent == tmp_path.resolve()
    if os.name == "posix":
        assert folder.path.stat().st_mode & 0o077 == 0
    (folder.path / "r1").mkdir()
    folder.remove()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_killed_program_goes_and_no_other(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\n"
        "from blender_normal_inpaint.worker.jobfolder import JobFolder\n"
        "folder = JobFolder(Path(sys.argv[1]))\nprint(folder.path, flush=True)\ntime.sleep(600)\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert owner.stdout is not None
    theirs = Path(owner.stdout.readline().strip())
    (theirs / "r7").mkdir()
    (theirs / "r7" / "normals.npy").write_bytes(b"x")
    mine = JobFolder(tmp_path)
    strangers = tmp_path / "normal_inpaint_of_someone_else"
    strangers.mkdir()
    make_old(theirs)
    make_old(mine.path)
    try:
        remove_leftovers(tmp_path)
        assert theirs.is_dir(), "its owner still runs"
    finally:
        owner.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
        owner.wait()
        owner.stdout.close()
    another = JobFolder(tmp_path)
    assert not theirs.exists()
    assert mine.path.is_dir(), "this very program owns it"
    assert strangers.is_dir(), "nothing says that it is ours"
    mine.remove()
    another.remove()


def test_a_folder_that_was_only_just_made_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "normal_inpaint_young"
    folder.mkdir()
    (folder / "owner.lock").touch()
    remove_leftovers(tmp_path)
    assert folder.is_dir()
    make_old(folder)
    remove_leftovers(tmp_path)
    assert not folder.exists()


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
def test_a_link_is_not_followed(tmp_path: Path) -> None:
    precious, place = tmp_path / "precious", tmp_path / "temp"
    precious.mkdir()
    place.mkdir()
    (precious / "owner.lock").touch()
    make_old(precious)
    (place / "normal_inpaint_x").symlink_to(precious)
    remove_leftovers(place)
    assert (precious / "owner.lock").is_file()
    assert (place / "normal_inpaint_x").is_symlink()


def test_a_parent_that_is_not_there(tmp_path: Path) -> None:
    remove_leftovers(tmp_path / "nowhere")
    with pytest.raises(OSError):
        JobFolder(tmp_path / "nowhere")

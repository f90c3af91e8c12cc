"""Runs one scenario inside real Blender: `python inside.py ZIP WORK SCENARIO`.

Installs the extension the way a user does, runs a function of `scenarios`, and takes the extension out
again before the process ends: Blender crashes or hangs at exit with anything still registered.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import bpy
import scenarios

MODULE = "bl_ext.user_default.normal_inpaint"


def main(archive: str, work: str, name: str) -> int:
    # A factory start without the default scene: every scenario builds what it needs.
    bpy.ops.wm.read_factory_settings(use_empty=True)
    done = bpy.ops.extensions.package_install_files(
        filepath=archive, repo="user_default", enable_on_install=True
    )
    status = 1
    try:
        assert "FINISHED" in done, done
        assert MODULE in bpy.context.preferences.addons, "the extension was not enabled"
        getattr(scenarios, name)(Path(work))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        if MODULE in bpy.context.preferences.addons:
            bpy.ops.preferences.addon_disable(module=MODULE)
    if status == 0:
        print("scenario passed:", name, bpy.app.version_string, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""`python -m tests`: every check of the project, with its own set-up.

Needs Python 3.11 or 3.13 and nothing else. Makes its environments in `.environments/`, then runs the lint,
the type check and the tests without Blender, the tests in each Blender that the installed Pythons can host,
and the demonstration at a small size. `--fast` stops before Blender.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from tools import environments
from tools.environments import BLENDERS, ROOT, SetupError, say


@dataclass
class Count:
    """How the tests went."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def add(self, report: Path, status: int) -> None:
        """Adds one pytest run: its JUnit report and exit status."""
        failed = 0
        if report.exists():
            for suite in ElementTree.parse(report).getroot().iter("testsuite"):
                tests, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
                failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
                self.passed += tests - skipped - int(suite.get("failures", 0)) - int(suite.get("errors", 0))
                self.skipped += skipped
        # A run that broke off without naming a test has failed all the same.
        self.failed += failed or int(status != 0)


def pytest(python: Path, name: str, reports: Path, count: Count, *arguments: str, **extra: str) -> None:
    """Runs pytest in a process of its own and adds its outcome to `count`."""
    report = reports / f"{name}.xml"
    started = time.monotonic()
    done = subprocess.run(
        [
            str(python),
            "-m",
            "pytest",
            "--durations=5",
            "--durations-min=5",
            f"--junitxml={report}",
            *arguments,
        ],
        cwd=ROOT,
        env=environments.clean_environment(**extra),
    )
    count.add(report, done.returncode)
    say(f"-- {name}: exit status {done.returncode} after {time.monotonic() - started:.0f} s\n")


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--fast", action="store_true", help="only what needs no Blender")
    options = parser.parse_args()
    started = time.monotonic()
    count = Count()
    try:
        version, python = environments.main_python()
        unit = environments.ensure(environments.for_tests(version, python))
        with tempfile.TemporaryDirectory(prefix="normal_inpaint_tests_") as folder:
            reports = Path(folder)
            say(f"Without Blender, on Python {version}:")
            pytest(unit, "without Blender", reports, count, "-m", "not blender")
            if not options.fast:
                in_blender(unit, reports, count)
    except SetupError as error:
        print(f"tests: {error}", file=sys.stderr)
        count.failed += 1
    except KeyboardInterrupt:
        print("tests: interrupted", file=sys.stderr)
        return 130
    say(f"All after {time.monotonic() - started:.0f} s:")
    tail = f", {count.skipped} skipped" if count.skipped else ""
    say(f"{count.passed} passed, {count.failed} failed{tail}")
    return int(count.failed > 0 or count.passed == 0)


def in_blender(unit: Path, reports: Path, count: Count) -> None:
    """Runs the Blender tests and the demonstration in every Blender that this machine can host."""
    pythons = environments.find_pythons()
    hosts = []
    for environment in environments.blender_environments(pythons):
        hosts.append(str(environments.ensure(environment)))
    for version, releases in BLENDERS.items():
        where = pythons.get(version)
        state = f"on {where}" if where else f"NOT RUN: no Python {version} is installed"
        say(f"Blender {' and '.join(releases)}: {state}")
    pytest(
        unit,
        "in Blender",
        reports,
        count,
        "-m",
        "blender",
        NORMAL_INPAINT_BPY_PYTHONS=os.pathsep.join(hosts),
    )


if __name__ == "__main__":
    sys.exit(main())

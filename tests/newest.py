"""Runs the core of the suite against the newest releases that the ranges of pyproject.toml allow, and names what breaks.

`make test-newest` installs them into an environment of their own and calls this. Where tests fail, each package that is newer
than constraints.txt is put back to its tested version in turn, until the failed tests pass: that one breaks something.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from packaging.version import Version

from ray_st.util.packages import installed, misfits

ROOT = Path(__file__).parents[1]
CORE = ("tests/models", "tests/losses", "tests/data", "tests/evaluation", "tests/training", "tests/trainer")
"""What touches other packages' interfaces most; the tests that start Ray are left to `make test`."""


def tested_versions() -> dict[str, str]:
    """The versions of constraints.txt, by package."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {found[1]: found[2] for line in lines if (found := re.match(r"([\w.-]+)==([^ ;]+)", line))}


def newer_packages() -> dict[str, tuple[str, str]]:
    """The packages that are newer here than tested: the version here and the tested one, by name."""
    both = {name: (installed(name), tested) for name, tested in tested_versions().items()}
    return {
        name: (here, tested)
        for name, (here, tested) in both.items()
        if here is not None and Version(Version(here).public) > Version(tested)  # 2.13.0+cpu is 2.13.0
    }


def passes(*options: str) -> bool:
    """Whether the core's tests pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not ray and not long", *options, *CORE]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def breaking(newer: dict[str, tuple[str, str]]) -> str | None:
    """The package whose tested version makes the failed tests pass; all are put back as they were."""
    for name, (here, tested) in newer.items():
        _install(f"{name}=={tested}")
        mended = passes("--last-failed", "--last-failed-no-failures", "none")
        _install(f"{name}=={here}")
        if mended:
            return f"{name} {here} breaks what works with {tested}"
    return None


def _install(requirement: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", requirement], check=True)


def main() -> int:
    """Says what is newer, tests, and says what breaks."""
    newer = newer_packages()
    for name, (here, tested) in newer.items():
        print(f"newer than tested: {name} {here} (tested: {tested})")
    for what, cure in misfits():
        print(f"known: {what}: {cure}")
    if passes():
        print(f"the core works with {len(newer)} newer packages" if newer else "nothing is newer than tested")
        return 0
    print(breaking(newer) or "no single package that is newer than tested explains the failures")
    return 1


if __name__ == "__main__":
    sys.exit(main())

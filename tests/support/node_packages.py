"""Install the npm packages of the tests' Express app into a cache outside the repository; `.ci/run` runs it once."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = {"express": "4.21.2", "helmet": "8.1.0"}  # Their versions are defined only here.


def installed(npm: str) -> Path | str:
    """
    Return the node_modules folder with the packages, installed if needed.

    If they cannot be installed, return the reason as text.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "opslib-tests"
    folder = cache / "-".join(f"{name}-{version}" for name, version in PACKAGES.items())
    if folder.is_dir():
        return folder / "node_modules"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=cache))
    except OSError as problem:
        return f"{cache} cannot be written: {problem}"
    try:
        wanted = [f"{name}@{version}" for name, version in PACKAGES.items()]
        command = [
            npm,
            "install",
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            "--no-package-lock",
            "--fetch-retries=1",
            "--prefix",
            str(made),
            *wanted,
        ]
        ended = subprocess.run(command, cwd=made, capture_output=True, text=True, timeout=300)
        if ended.returncode:
            return f"npm install ended with {ended.returncode}: {ended.stderr[-500:]}"
        if not folder.is_dir():  # Another process may have installed them.
            made.rename(folder)
        return folder / "node_modules"
    except (OSError, subprocess.TimeoutExpired) as problem:
        return f"npm install failed: {problem}"
    finally:
        shutil.rmtree(made, ignore_errors=True)


if __name__ == "__main__":
    found = installed(shutil.which("npm") or sys.exit("npm is absent; install Node.js 18 or newer with npm"))
    sys.exit(None if isinstance(found, Path) else found)

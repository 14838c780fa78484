"""Set up the demo's home once for all tests of a session, and copy it for each that needs one."""

import os
import shutil
from pathlib import Path

from opslib.foundation.config import settings
from opslib.foundation.config.settings import Settings
from opslib.simulation.demo_day import replay


def template() -> Settings:
    """Return the demo's settings in the folder that all tests share, with its days."""
    found = settings.load(Path(os.environ["TEST_DEMO"]), "demo", {})
    replay.create_home(found)  # Safe for two workers at once.
    return found


def laid_out(home: Path) -> Settings:
    """Return the demo's settings below a home with its days."""
    found = settings.load(home, "demo", {})
    shutil.copytree(template().home, found.home)
    return found


def copy_home(settings: Settings, _seed: int) -> None:
    """Create the demo's home as a copy of the template, whole or not at all."""
    making = settings.home.parent / f"{replay.MAKING}copy"
    shutil.copytree(template().home, making)
    making.rename(settings.home)

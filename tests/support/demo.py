"""The demo's home, laid out once for all tests of a session, and copied for each that wants one."""

import os
import shutil
from pathlib import Path

from opslib.foundation.config import settings
from opslib.foundation.config.settings import Settings
from opslib.simulation.demo_day import replay


def laid_out(home: Path) -> Settings:
    """The demo's settings below a home, its days laid out there."""
    template = settings.load(Path(os.environ["TEST_DEMO"]), "demo", {})
    replay.lay_out(template)  # Two workers that come at once agree.
    found = settings.load(home, "demo", {})
    shutil.copytree(template.home, found.home)
    return found

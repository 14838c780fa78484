"""
Open the settings, the database, the limits, the people and the clock of one app: what everything that works for it is
given.

A workspace opens its database and reads its files on first use, so that making one costs nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from opslib.foundation import clock, formatting
from opslib.foundation.config import contacts, rules
from opslib.foundation.config import settings as settings_module
from opslib.foundation.config.contacts import Contacts
from opslib.foundation.config.rules import Rules
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import UsageError
from opslib.foundation.storage import cache
from opslib.foundation.storage.cache import Cache
from opslib.foundation.storage.database import Database
from opslib.foundation.storage.schema import TABLES

OF_AN_APP = ("reports", "runs", "incidents")  # Folders inside that of an app.


@dataclass(frozen=True)
class Workspace:
    """
    Where one app is watched: its settings, database, rules, contacts and clock.

    Attributes:
        settings: Where everything is.
        now: What time it is; only simulations and frozen cases give another clock.
        remembers: Whether values computed before are taken from the cache. Verification computes everything anew.
    """

    settings: Settings
    now: Callable[[], datetime] = clock.now
    remembers: bool = True

    @cached_property
    def store(self) -> Database:
        """Its database."""
        return Database(self.settings.url, self.now)

    @cached_property
    def rules(self) -> Rules:
        """The limits in force."""
        return rules.load(self.settings.base, self.remembers)

    @cached_property
    def memory(self) -> Cache:
        """Values that were computed before."""
        return Cache(self.settings.outputs / cache.FOLDER if self.remembers else None)

    @cached_property
    def staff(self) -> Contacts:
        """Roles, people and channels."""
        return contacts.read(self.settings)


def open(app: str | None = None, home: str | Path | None = None, environ: dict[str, Any] | None = None) -> Workspace:
    """Open the workspace of an app; see `settings.load`."""
    return Workspace(settings_module.load(home, app, environ))


def refuse_unknown(settings: Settings) -> None:
    """
    Refuse an app of which this home has nothing: no setting, no folder, and no row in its database.

    Raises:
        UsageError: It is unknown; with the nearest name of those that are known.
    """
    if settings.app in (settings_module.load(settings.base).app, settings_module.DESK):
        return
    kept = settings.store_url or (settings.home / "store.sqlite").exists()  # To refuse lays nothing out.
    folders = {path.parent.name for kind in OF_AN_APP for path in settings.home.glob(f"*/{kind}")}
    known = sorted(
        {settings_module.load(settings.base).app, settings_module.DESK, settings_module.DEMO}
        | folders
        | (set(_stored(Database(settings.url))) if kept else set())
    )
    if settings.app not in known:
        raise UsageError(
            f"there is no app {settings.app!r} in {settings.base}; there are: {', '.join(known)}"
            f".{formatting.nearest(settings.app, known)} A new app begins with ops import, ops serve or ops collect,"
            f" given --app {settings.app}."
        )


def _stored(store: Database) -> Iterator[str]:
    """Every app of which a database has a row, each as often as tables have one; by seeking, not by reading rows."""
    with store.reading() as connection:
        for table in TABLES.tables.values():
            if "app" in table.columns:
                app = connection.execute(sa.select(sa.func.min(table.c.app, type_=sa.Text))).scalar()
                while app is not None:
                    if isinstance(app, str):  # A damaged cell is no app's name.
                        yield app
                    app = connection.execute(
                        sa.select(sa.func.min(table.c.app, type_=sa.Text)).where(table.c.app > app)
                    ).scalar()

"""
Open the settings, database, limits, contacts and clock of one app.

Every function that works for an app takes a workspace. It opens its database and reads its files on first use, so
creating one costs nothing.
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

OF_AN_APP = ("reports", "runs", "incidents")  # Directories inside that of an app.


@dataclass(frozen=True)
class Workspace:
    """
    Everything about one monitored app: its settings, database, rules, contacts and clock.

    Attributes:
        settings: Where its files are and what is monitored.
        now: Returns the current time; only simulations and regression cases use another clock.
        remembers: Whether cached values may be used. Verification recomputes everything.
    """

    settings: Settings
    now: Callable[[], datetime] = clock.now
    uses_cache: bool = True

    @cached_property
    def store(self) -> Database:
        """The database."""
        return Database(self.settings.url, self.now)

    def reopen_replaced(self) -> bool:
        """
        Open the database again if another file has replaced it since, such as a backup; return whether one has.

        Raises:
            StoreError: It was removed.
        """
        if not self.store.file.is_replaced():
            return False
        del self.__dict__["store"]
        return True

    @cached_property
    def rules(self) -> Rules:
        """The limits in effect."""
        return rules.load(self.settings.base, self.uses_cache)

    @cached_property
    def cache(self) -> Cache:
        """The cache of computed values."""
        return Cache(self.settings.outputs / cache.FOLDER if self.uses_cache else None)

    @cached_property
    def contacts(self) -> Contacts:
        """Roles, people and channels."""
        return contacts.read(self.settings)


def open(app: str | None = None, home: str | Path | None = None, environ: dict[str, Any] | None = None) -> Workspace:
    """Open the workspace of an app; see `settings.load`."""
    return Workspace(settings_module.load(home, app, environ))


def refuse_unknown(settings: Settings) -> None:
    """
    Raise an error for an app without any setting, directory or database row in this home directory.

    Raises:
        UsageError: The app is unknown; the message has the nearest known name.
    """
    if settings.app in (settings_module.load(settings.base).app, settings_module.DESK):
        return
    kept = settings.store_url or (settings.home / "store.sqlite").exists()  # A refused command creates no file.
    folders = {path.parent.name for kind in OF_AN_APP for path in settings.home.glob(f"*/{kind}")}
    known = sorted(
        {settings_module.load(settings.base).app, settings_module.DESK, settings_module.DEMO}
        | folders
        | (set(_stored(Database(settings.url))) if kept else set())
    )
    if settings.app not in known:
        raise UsageError(
            f"there is no app {settings.app!r} in {settings.base}. Known apps: {', '.join(known)}."
            f"{formatting.nearest(settings.app, known)} To create it, run ops import, ops serve or ops collect with "
            f"--app {settings.app}."
        )


def _stored(store: Database) -> Iterator[str]:
    """
    Yield every app with rows in a database, once per table that has some; found by index seeks, not by reading rows.
    """
    with store.reading() as connection:
        for table in TABLES.tables.values():
            if "app" in table.columns:
                app = connection.execute(sa.select(sa.func.min(table.c.app, type_=sa.Text))).scalar()
                while app is not None:
                    if isinstance(app, str):  # A damaged cell may hold anything.
                        yield app
                    app = connection.execute(
                        sa.select(sa.func.min(table.c.app, type_=sa.Text)).where(table.c.app > app)
                    ).scalar()

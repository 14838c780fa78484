"""
Notify people: check scheduled jobs, plan notifications, open incidents, send by every channel, resend firing alerts.

The collector, its standby and the scheduler all do this; several processes may do so on one database.
"""

import asyncio
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

from opslib.alerting.notifications import NotificationStore, Sender
from opslib.alerting.notifications.sender import Complaints
from opslib.foundation import clock
from opslib.foundation.config.contacts import Contacts
from opslib.foundation.config.rules import Rules
from opslib.foundation.config.settings import Settings
from opslib.foundation.config.workspace import Workspace
from opslib.foundation.errors import IncidentError, SettingsError, StoreError, UsageError
from opslib.foundation.storage.database import Database
from opslib.incidents import Incidents
from opslib.jobs import DueJobs
from opslib.reports import index_page
from opslib.runbooks import incident_page
from opslib.services import periodic
from opslib.services.periodic import PeriodicTask
from opslib.services.situations import Situations

NOTIFYING = "notification of people"  # The name of these tasks in log lines.
PLAN_S = SEND_S = 1.0
RESEND_S = 60.0
PAGES_S = 5.0
DUE_EVERY = timedelta(seconds=10)  # How often missed jobs are checked.


class NotificationTasks:
    """
    The periodic tasks that notify people of one app's alerts.

    Attributes:
        healthy: Whether the last planning succeeded.
    """

    def __init__(
        self,
        store: Database,
        settings: Settings,
        rules: Rules,
        contacts: Contacts,
        now: Callable[[], datetime] = clock.now,
    ):
        self._store, self._settings, self._rules, self.contacts, self._now = store, settings, rules, contacts, now
        self.complaints, self.notifications = Complaints(settings), NotificationStore(store, settings.app)
        self._situations = Situations(store, settings, rules, self.complaints)
        self.sender = Sender(store, settings, rules, contacts, now, self._situations.at, self.complaints)
        self._incidents = Incidents(store, settings, rules)
        self._due_at: datetime | None = None
        self._workspace, self._changed = Workspace(settings, now), set[str]()
        # Replaces the cached properties: one database and one table of rules for all of this.
        self._workspace.__dict__.update(store=store, rules=rules, contacts=contacts)
        self.healthy = True

    def tasks(self) -> list[PeriodicTask]:
        """List the tasks; each channel has its own, so that a channel that hangs delays no other."""
        return [
            periodic.every(NOTIFYING, PLAN_S, self._plan_in_thread),
            periodic.every(NOTIFYING, RESEND_S, self.sender.resend_firing),
            periodic.every(NOTIFYING, PAGES_S, partial(asyncio.to_thread, self.write_pages)),
            *(
                periodic.every(NOTIFYING, SEND_S, partial(self.sender.send_all, channel))
                for channel in self.contacts.channels.values()
            ),
        ]

    def run(self, stop: threading.Event) -> None:
        """Notify people until stopped; deliveries in progress are finished first."""
        periodic.run_until_stopped(self.tasks(), stop, self.complaints)

    async def run_once(self) -> None:
        """Plan, and send what is due; failed deliveries are retried the next time."""
        self.plan_all()
        await self.send()
        await asyncio.to_thread(self.write_pages)

    async def send(self) -> None:
        """Send what is due by every channel."""
        await asyncio.gather(*(self.sender.send_all(channel) for channel in self.contacts.channels.values()))

    def plan_all(self) -> None:
        """
        Plan notifications.

        Missed jobs are reported first, so that they are part of the plan. Afterwards, alerts of which people are
        notified are added to incidents.
        """
        self.watch_due()
        self.plan()
        self.follow_alerts()

    def watch_due(self) -> None:
        """Report missed jobs, since the scheduler may not be running."""
        now = self._now()
        if self._due_at is not None and timedelta() <= now - self._due_at < DUE_EVERY:
            return
        try:
            jobs = DueJobs.of(self._store, self._settings, self.contacts)
            if jobs.since() and (found := jobs.alerts_of_missed(now, self.notifications.schedule_alerts())):
                self.notifications.store_external_alerts(found)
            self.complaints.over("schedule")
        except (SettingsError, UsageError) as problem:
            self.complaints.say("schedule", str(problem))
        self._due_at = now

    def plan(self) -> list[str]:
        """Store the notifications that are due now, and return the ids of the messages."""
        return self.notifications.plan(self.contacts, self._rules, self._situations.cause_at)

    def follow_alerts(self) -> None:
        """Open an incident for each alert of which people were notified, and record what changed since."""
        try:
            self._changed.update(self._incidents.follow_alerts())
            self.complaints.over("record")
        except IncidentError as problem:
            self.complaints.say("record", str(problem))

    def write_pages(self) -> None:
        """Write the pages of the incidents that changed since the last time, and Home, which lists them."""
        if not self._changed:
            return
        while self._changed:
            incident_page.refresh(self._workspace, self._changed.pop())
        index_page.keep_current(self._workspace)

    async def _plan_in_thread(self) -> None:
        try:
            await asyncio.to_thread(self.plan_all)
        except StoreError:
            raise
        except Exception:  # After any failure no heartbeat is sent until planning succeeds again.
            self.healthy = False
            raise
        self.healthy = True
        for lost in await asyncio.to_thread(self.notifications.expire_unreachable, self.contacts.channels):
            self.complaints.say(
                "lost", f"{lost} will not be delivered: its channel is no longer in settings.toml", always=True
            )

"""
Have people notified: watch what is due, plan, follow alerts into incidents, send by every channel, and say again what
still fires.

The collector, its standby and the scheduler each do all of this; any number of processes may, on one store.
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
from opslib.foundation.errors import IncidentError, SettingsError, StoreError, UsageError
from opslib.foundation.storage.database import Database
from opslib.incidents import Incidents
from opslib.jobs import DueJobs
from opslib.services import periodic
from opslib.services.periodic import PeriodicTask
from opslib.services.situations import Situations

TELLING = "telling people"  # What fails, as it is said of each of these tasks.
PLAN_S = SEND_S = 1.0
RESEND_S = 60.0
DUE_EVERY = timedelta(seconds=10)  # So often it is looked whether what was due was made.


class NotificationTasks:
    """
    What is done again and again so that people are notified of one app's alerts.

    Attributes:
        well: Whether planning did not fail the last time.
    """

    def __init__(
        self,
        store: Database,
        settings: Settings,
        rules: Rules,
        staff: Contacts,
        now: Callable[[], datetime] = clock.now,
    ):
        self._store, self._settings, self._rules, self.staff, self._now = store, settings, rules, staff, now
        self.complaints, self.dispatch = Complaints(settings), NotificationStore(store, settings.app)
        self._situations = Situations(store, settings, rules, self.complaints)
        self.sender = Sender(store, settings, rules, staff, now, self._situations.at, self.complaints)
        self._incidents = Incidents(store, settings, rules)
        self._due_at: datetime | None = None
        self.well = True

    def tasks(self) -> list[PeriodicTask]:
        """List the tasks; each channel has one of its own, so that one which hangs delays no other."""
        return [
            periodic.every(TELLING, PLAN_S, self._plan_in_thread),
            periodic.every(TELLING, RESEND_S, self.sender.resend_firing),
            *(
                periodic.every(TELLING, SEND_S, partial(self.sender.send_all, channel))
                for channel in self.staff.channels.values()
            ),
        ]

    def run(self, stop: threading.Event) -> None:
        """Have people notified until stopped; what is on its way is finished first."""
        periodic.run_until_stopped(self.tasks(), stop, self.complaints)

    async def run_once(self) -> None:
        """Plan, and send what is due by now; what fails waits for the next time."""
        self.plan_all()
        await asyncio.gather(*(self.sender.send_all(channel) for channel in self.staff.channels.values()))

    def plan_all(self) -> None:
        """
        Plan what people are notified of.

        Jobs that were missed are reported first, to be in the plan; alerts of which people are notified are on an
        incident's record afterwards.
        """
        self.watch_due()
        self.plan()
        self.follow_alerts()

    def watch_due(self) -> None:
        """Report jobs that were missed: whoever runs them may be dead."""
        now = self._now()
        if self._due_at is not None and timedelta() <= now - self._due_at < DUE_EVERY:
            return
        try:
            jobs = DueJobs.of(self._store, self._settings, self.staff)
            if jobs.since() and (found := jobs.told(now, self.dispatch.said_of_schedule())):
                self.dispatch.heard(found)
            self.complaints.over("schedule")
        except (SettingsError, UsageError) as problem:
            self.complaints.say("schedule", str(problem))
        self._due_at = now

    def plan(self) -> list[str]:
        """Write down what people are to be notified of now; the ids of the messages."""
        return self.dispatch.plan(self.staff, self._rules, self._situations.cause_at)

    def follow_alerts(self) -> None:
        """Open an incident for what people were notified of, and record what became of it since."""
        try:
            self._incidents.follow_alerts()
            self.complaints.over("record")
        except IncidentError as problem:
            self.complaints.say("record", str(problem))

    async def _plan_in_thread(self) -> None:
        try:
            await asyncio.to_thread(self.plan_all)
        except StoreError:
            raise
        except Exception:  # Whatever it is: no heartbeat is sent until planning succeeds again.
            self.well = False
            raise
        self.well = True
        for lost in await asyncio.to_thread(self.dispatch.unreachable, self.staff.channels):
            self.complaints.say(
                "lost", f"{lost} is given up: that channel is not in the settings any more", always=True
            )

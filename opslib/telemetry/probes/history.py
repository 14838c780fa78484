"""
Compute figures of a window from the samples of our probes, without thresholds and texts.

Samples are kept by their times, and queried for any window (start, end]. A share counts attempts, a round trip is the
time of one attempt, and the current state is the last probe. Times without probes give no result.
"""

import itertools
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from opslib.foundation import clock, market_calendar
from opslib.foundation.clock import SECOND, Window
from opslib.foundation.storage.database import Database
from opslib.foundation.storage.new_rows import NewRows
from opslib.foundation.storage.schema import SAMPLES
from opslib.telemetry.probes.outcomes import OUTCOMES, TRANSPORT
from opslib.telemetry.probes.store import Sample, SampleStore, sample_of

P = ParamSpec("P")
T = TypeVar("T")
REQUEST_PROBES = ("data", "health", "liveness", "metrics")  # Probes that send a request and read a response.
# The probe that shows whether a subject is up.
IS_THERE = {"massive": "liveness", "tradier": "liveness", "app": "health"}
FRESH_US = 60 * SECOND  # Older samples do not show the current state, unless the probe interval is longer.
SKEW_LOOKS = 5
MOST_WINDOWS = 400
# The latter: an hour of probes, the longest wait that a provider can ask for.
KEPT, MOST_PASSED_OVER = "quota_kept", 800
BEAT, USUAL_S = ("beat", "collector"), 5.0
BORN_APART_S = 1.0
STARVED = "starved"  # The outcome of a sample that is not valid, since our process was stalled during the probe.
CLOSED_WORDS = ("closed", "premarket", "postmarket", "extended-hours")  # Market states of providers that mean not open.
# Additional probes of the app's server while it is down; they count in no rate.
FOLLOW_UP = "follow_up"


class Share(NamedTuple):
    """A part of a count."""

    part: int
    count: int  # type: ignore[assignment]  # tuple.count is not used.


class _Line:
    """The samples of one probe and subject, in order of time."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.times: list[int] = []

    def add(self, sample: Sample) -> None:
        at = bisect_right(self.times, sample.ts_us)
        self.times.insert(at, sample.ts_us)
        self.samples.insert(at, sample)

    def drop_after(self, at_us: int) -> None:
        """Remove the samples after a time."""
        at = bisect_right(self.times, at_us)
        del self.times[at:], self.samples[at:]

    def within(self, start_us: int, end_us: int) -> list[Sample]:
        return self.samples[bisect_right(self.times, start_us) : bisect_right(self.times, end_us)]

    def last(self, at_us: int) -> Sample | None:
        """Return the last completed probe at an instant; probes skipped because of a quota do not count."""
        at = bisect_right(self.times, at_us)
        return next(
            (
                self.samples[i]
                for i in range(at - 1, max(-1, at - MOST_PASSED_OVER), -1)
                if self.samples[i].last and self.samples[i].outcome != KEPT
            ),
            None,
        )

    def drop_until(self, at_us: int) -> None:
        """Remove the samples up to a time."""
        at = bisect_right(self.times, at_us)
        del self.times[:at], self.samples[:at]

    def forget(self, before_us: int) -> None:
        at = min(
            bisect_left(self.times, before_us), len(self.times) - 1
        )  # The last sample is the current state, however old.
        del self.times[:at], self.samples[:at]


class _Heartbeats(_Line):
    """The collector's heartbeats, and how long it has run since the first of them."""

    def __init__(self) -> None:
        super().__init__()
        self._covered: list[int] = []
        self.set_us: list[int] = []  # Heartbeats before which our clock was set forward, or the machine slept.

    def add(self, sample: Sample) -> None:
        super().add(sample)
        if '"stepped_s"' in sample.detail and sample.details()["stepped_s"] > 0:
            insort(self.set_us, sample.ts_us)
        if self.samples[-1] is not sample:
            self._covered = []  # It arrived late, so all after it is computed again.

    def forget(self, before_us: int) -> None:
        super().forget(before_us)
        self._covered = []
        del self.set_us[: bisect_left(self.set_us, before_us)]

    def drop_until(self, at_us: int) -> None:
        gone = bisect_right(self.times, at_us)
        super().drop_until(at_us)
        # Only differences between running times are used, so those of the others stay valid.
        del self._covered[:gone], self.set_us[: bisect_right(self.set_us, at_us)]

    def drop_after(self, at_us: int) -> None:
        super().drop_after(at_us)
        del self._covered[len(self.times) :], self.set_us[bisect_right(self.set_us, at_us) :]

    def every_us(self, i: int) -> int:
        """Return the time from a heartbeat to the next due one, microseconds."""
        return round(float(self.samples[i].details().get("every_s", USUAL_S)) * SECOND)

    def covered(self) -> list[int]:
        """Return the running time up to each heartbeat, microseconds; of a gap at most two intervals count."""
        for i in range(len(self._covered), len(self.samples)):
            ran_us = (
                0
                if i == 0 or self.samples[i - 1].outcome == "stopped"
                else min(self.times[i] - self.times[i - 1], 2 * self.every_us(i))
            )
            self._covered.append((self._covered[-1] if self._covered else 0) + ran_us)
        return self._covered


def _once(find: Callable[Concatenate["ProbeHistory", P], T]) -> Callable[Concatenate["ProbeHistory", P], T]:
    """Cache what a method returns for a window until samples are added, since many rules query the same."""

    @wraps(find)
    def found(self: "ProbeHistory", /, *args: P.args, **more: P.kwargs) -> T:
        windows = ((given.start_us, given.end_us) if isinstance(given, Window) else given for given in args)
        key = (find, *windows, *more.items())
        if key not in self._found:
            if len(self._found) > MOST_WINDOWS:
                self._found.clear()
            self._found[key] = find(self, *args, **more)
        known: T = self._found[key]
        return known

    return found


class ProbeHistory:
    """
    The samples of our probes over some time.

    Args:
        fallback: The provider that serves if Massive does not: ``tradier``, or ``none``.
        samples: The first samples; more may be added.
    """

    def __init__(self, fallback: str = "tradier", samples: Iterable[Sample] = ()):
        self.fallback = fallback
        self._heartbeats = _Heartbeats()
        self._lines: dict[tuple[str, str], _Line] = {}
        self._starved_us: list[int] = []
        self._closed_us: dict[str, list[int]] = {}  # When each provider reported a closed market.
        # When new connections of the app's WebSocket were served, and since when older ones are dead.
        self._renewed: list[tuple[int, int]] = []
        self._found: dict[tuple[object, ...], Any] = {}  # See `_once`.
        self._was_set_back = False
        self.add(samples)

    def add(self, samples: Iterable[Sample]) -> None:
        """Add samples, in the order in which they were made."""
        self._found.clear()
        for sample in samples:
            key = (sample.probe, sample.subject)
            if sample.outcome == STARVED:
                insort(self._starved_us, sample.ts_us)
                continue
            if key == BEAT and '"stepped_s": -' in sample.detail:
                self._set_back(sample.ts_us)
            if (
                sample.probe == "liveness"
                and '"market": "open"' not in sample.detail
                and _market(sample) in CLOSED_WORDS
            ):
                insort(self._closed_us.setdefault(sample.subject, []), sample.ts_us)
            if sample.probe == "socket" and sample.outcome == "renewed" and sample.value is not None:
                insort(self._renewed, (sample.ts_us, sample.ts_us - round(sample.value * SECOND)))
            if key not in self._lines:
                self._lines[key] = self._heartbeats if key == BEAT else _Line()
            self._lines[key].add(sample)

    def move(self, samples: Sequence[Sample], start_us: int) -> bool:
        """
        Add new samples in the order in which they were stored, and remove those up to a time.

        Returns:
            False where the result could differ from a history of the remaining samples: one of them came late, our
            clock was set back, or no heartbeat is left. The history is then not valid.
        """
        lines = ((sample, self._lines.get((sample.probe, sample.subject))) for sample in samples)
        if any(line and sample.ts_us <= line.times[-1] for sample, line in lines if sample.outcome != STARVED):
            return False
        self.add(samples)
        self._found.clear()
        for key, line in [(key, line) for key, line in self._lines.items() if line.times[0] <= start_us]:
            line.drop_until(start_us)
            if not line.times:
                del self._lines[key]
        del self._starved_us[: bisect_right(self._starved_us, start_us)]
        self._closed_us = {
            subject: left
            for subject, times in self._closed_us.items()
            if (left := [us for us in times if us > start_us])
        }
        self._renewed = [found for found in self._renewed if found[0] > start_us]
        return bool(self._heartbeats.times) and not self._was_set_back

    def _set_back(self, at_us: int) -> None:
        """
        Remove the samples after a time to which our clock was set back.

        They were made before, by a clock that was ahead.
        """
        self._was_set_back = True
        for line in self._lines.values():
            line.drop_after(at_us)
        for times in (self._starved_us, *self._closed_us.values()):
            del times[bisect_right(times, at_us) :]

    @property
    def any(self) -> bool:
        """Whether there is any sample."""
        return bool(self._lines)

    def seen(self, probe: str, subject: str) -> bool:
        """Return whether there is any sample of a probe and subject."""
        return (probe, subject) in self._lines

    @property
    def kinds(self) -> list[tuple[str, str]]:
        """Every probe that has samples: (probe, subject)."""
        return sorted(key for key in self._lines if key[0] != FOLLOW_UP)

    def subjects(self, probe: str) -> list[str]:
        """Return the subjects of a probe."""
        return sorted(subject for name, subject in self._lines if name == probe)

    def _line(self, probe: str, subject: str) -> _Line:
        return self._lines.get((probe, subject)) or _Line()

    def within(self, probe: str, subject: str, window: Window) -> list[Sample]:
        """Return every attempt in a window."""
        return self._line(probe, subject).within(window.start_us, window.end_us)

    def forget(self, before_us: int) -> None:
        """Remove the samples before an instant."""
        self._found.clear()
        for line in self._lines.values():
            line.forget(before_us)
        for times in (self._starved_us, *self._closed_us.values()):
            del times[: bisect_left(times, before_us)]

    @staticmethod
    def details(sample: Sample) -> dict[str, Any]:
        """Return the details of a sample."""
        return sample.details()

    def now(self, probe: str, subject: str, at_us: int) -> Sample | None:
        """Return the current sample at an instant; None without a recent probe."""
        line = self._line(probe, subject)
        found, count = line.last(at_us), bisect_right(line.times, at_us)
        # A probe that was skipped because of a quota keeps the sample before it current.
        recent = found is not None and (
            (ago_us := at_us - line.times[count - 1]) <= FRESH_US or ago_us <= 3 * self._interval_us(line, count)
        )
        return found if recent else None

    @staticmethod
    def _interval_us(line: _Line, count: int) -> int:
        ends = [s.ts_us for s in line.samples[max(0, count - 8) : count] if s.last]
        gaps = sorted(b - a for a, b in itertools.pairwise(ends))
        return gaps[len(gaps) // 2] if gaps else 0

    def since(self, probe: str, subject: str, at_us: int) -> Sample | None:
        """
        Return the first of the latest samples that are all usable, or all not usable.

        Its time is the beginning of the current state. None without a recent probe.
        """
        line, last = self._line(probe, subject), self.now(probe, subject, at_us)
        if last is None:
            return None
        found = last
        for sample in reversed(line.samples[: bisect_right(line.times, last.ts_us)]):
            if sample.outcome == KEPT:
                continue
            if OUTCOMES[sample.outcome].usable != OUTCOMES[last.outcome].usable:
                break
            found = sample
        return found

    @_once
    def answered(self, subject: str, window: Window) -> Share:
        """
        Return how many attempts show that a subject is up, of those that show whether it is.

        Problems with our key, plan or quota, and pages of another server, do not count.
        """
        answers = [
            OUTCOMES[s.outcome].answered for s in self._requests(subject, window) if s.probe == IS_THERE.get(subject)
        ]
        known = [a for a in answers if a is not None]
        return Share(sum(known), len(known))

    @_once
    def usable(self, subject: str, window: Window) -> Share:
        """Return how many probes got usable data."""
        last = [OUTCOMES[s.outcome].usable for s in self._requests(subject, window) if s.last]
        return Share(sum(last), len(last))

    def around(self, probe: str, sample: Sample) -> list[Sample]:
        """
        Return the samples of another probe of the same subject just before and after a sample, if they are recent.
        """
        line = self._line(probe, sample.subject)
        at = bisect_left(line.times, sample.ts_us)
        return [s for s in line.samples[max(0, at - 1) : at + 2] if abs(s.ts_us - sample.ts_us) <= FRESH_US]

    def state_changes(self, subject: str, window: Window) -> int:
        """
        Count the changes between responding and not responding.

        An outage has two changes, flapping has more.
        """
        return _state_changes(self._requests_in_order(subject, window))

    def socket_state_changes(self, window: Window) -> int:
        """Count the changes of the app's WebSocket between healthy and unhealthy."""
        return _state_changes(self.within("socket", "app", window))

    def refused_attempts(self, subject: str, window: Window) -> Share:
        """Return how many attempts were rejected because of a rate limit."""
        requests = self._requests(subject, window)
        return Share(sum(s.outcome == "rate_limited_429" for s in requests), len(requests))

    def _requests_in_order(self, subject: str, window: Window) -> list[Sample]:
        return sorted(self._requests(subject, window), key=lambda s: s.ts_us)

    def leading_failure(self, subject: str, window: Window) -> str | None:
        """
        Return the most frequent outcome that is not usable; None if all are usable.
        """
        outcomes = [s.outcome for s in self._requests(subject, window) if s.last and not OUTCOMES[s.outcome].usable]
        return max(sorted(set(outcomes)), key=outcomes.count) if outcomes else None

    def _requests(self, subject: str, window: Window) -> list[Sample]:
        return [s for probe in REQUEST_PROBES for s in self.within(probe, subject, window) if s.outcome != KEPT]

    @_once
    def seconds(self, subject: str, window: Window, *more: str) -> list[float]:
        """
        Return the sorted durations of usable attempts, of the liveness probe and of more probes.
        """
        return sorted(
            took
            for probe in (IS_THERE[subject], *more)
            for s in self.within(probe, subject, window)
            if OUTCOMES[s.outcome].usable and (took := _took_s(s)) is not None
        )

    def round_trips(self, window: Window) -> list[float]:
        """Return the sorted round trips of the app's WebSocket."""
        return sorted(took for s in self.within("socket", "app", window) if (took := _took_s(s)) is not None)

    @_once
    def coverage(self, window: Window) -> float | None:
        """
        Return the share of a window in which the collector ran, from its first heartbeat on; 0 to 1.

        None if it was not started yet. Before its start nothing is expected; after its death, coverage is missing.
        """
        heartbeats, start_us, end_us = self._heartbeats, window.start_us, window.end_us
        first, last = bisect_right(heartbeats.times, start_us), bisect_right(heartbeats.times, end_us) - 1
        running = (
            first > 0 and heartbeats.samples[first - 1].outcome != "stopped"
        )  # Whether it was running before the window.
        if last < first:
            return 0.0 if running else None
        covered = heartbeats.covered()
        begun_us = start_us if running else heartbeats.times[first]
        before_us = min(heartbeats.times[first] - start_us, covered[first] - covered[first - 1]) if running else 0
        stopped = heartbeats.samples[last].outcome == "stopped"
        after_us = 0 if stopped else min(end_us - heartbeats.times[last], 2 * heartbeats.every_us(last))
        whole_us = (heartbeats.times[last] if stopped else end_us) - begun_us
        return min(1.0, (before_us + covered[last] - covered[first] + after_us) / whole_us) if whole_us > 0 else 1.0

    def missed_heartbeats(self, at_us: int) -> float | None:
        """Return the missed heartbeats of the collector at an instant; None if it never ran, or was stopped."""
        i = bisect_right(self._heartbeats.times, at_us) - 1
        if i < 0 or self._heartbeats.samples[i].outcome == "stopped":
            return None
        return float(max(0, (at_us - self._heartbeats.times[i]) // self._heartbeats.every_us(i) - 1))

    def older_dead_since_us(self, at_us: int) -> int | None:
        """
        Return since when older connections of the app's WebSocket are dead while new ones are served.

        It is the newest such time found up to an instant, microseconds since 1970; None if there is none.
        """
        return max((dead_us for found_us, dead_us in self._renewed if found_us <= at_us), default=None)

    def socket_down_s(self, at_us: int) -> float | None:
        """
        Return the seconds for which the app's WebSocket has been down, or open without messages, at an instant.

        The latter may hold for all or for older connections. 0 if it is healthy; None without a recent probe.
        """
        last = self.now("socket", "app", at_us)
        if last is None:
            return None
        if OUTCOMES[last.outcome].usable:
            return 0.0
        since = self.since("socket", "app", at_us)
        assert since is not None
        received_us = (
            last.ts_us - round(last.value * SECOND)
            if last.outcome in ("silent", "renewed") and last.value is not None
            else since.ts_us
        )
        return max(0.0, (at_us - min(received_us, since.ts_us)) / SECOND)

    def errors(self, window: Window) -> int | None:
        """Return the number of errors that the app logged in a window; None if its log was not read."""
        found = [s for s in self.within("log", "app", window) if s.outcome == "ok"]
        return round(sum(s.value or 0 for s in found)) if found else None

    def log_kinds(self, window: Window) -> dict[str, int]:
        """Return the number of log entries of each kind."""
        kinds: dict[str, int] = {}
        for sample in self.within("log", "app", window):
            for kind, count in self.details(sample).get("kinds", {}).items():
                kinds[kind] = kinds.get(kind, 0) + count
        return dict(sorted(kinds.items()))

    def log_newest(self, window: Window) -> dict[str, str]:
        """Return the newest line of each kind of error."""
        return {
            kind: line
            for sample in self.within("log", "app", window)
            for kind, line in self.details(sample).get("newest", {}).items()
        }

    def gave_up_after_ms(self, window: Window) -> int | None:
        """Return the shortest timeout that the app's log reports, milliseconds; None if it reports none."""
        return min(
            (ms for s in self.within("log", "app", window) if (ms := self.details(s).get("waited_ms")) is not None),
            default=None,
        )

    def growth_mb_per_h(self, window: Window) -> tuple[float, int] | None:
        """
        Return the memory growth of the app's process since its last start, and the number of probes used.

        The growth is the slope of a straight line through the samples, MB per hour.
        """
        found = [s for s in self.within("process", "app", window) if s.outcome == "ok" and s.value is not None]
        if found:
            born = self.details(found[-1]).get("born")
            found = [s for s in found if self.details(s).get("born") == born]
        if len(found) < 3:
            return None
        hours = [(s.ts_us - found[0].ts_us) / (3600 * SECOND) for s in found]
        sizes = [s.value or 0.0 for s in found]
        middle_h, middle_mb = sum(hours) / len(hours), sum(sizes) / len(sizes)
        spread = sum((h - middle_h) ** 2 for h in hours)
        return (
            (sum((h - middle_h) * (mb - middle_mb) for h, mb in zip(hours, sizes)) / spread, len(found))
            if spread
            else None
        )

    @_once
    def restarts(self, window: Window) -> list[int]:
        """Return the times of restarts of the app's server, by its process start time and by its own uptime."""
        found: list[int] = []

        def born(before: Sample, now: Sample) -> bool:
            return bool(self.details(now).get("born", 0) - self.details(before).get("born", 0) > BORN_APART_S)

        # An uptime that decreased to more than the time since is that of another process behind the same address.
        def fell(before: Sample, now: Sample) -> bool:
            return (now.value or 0.0) < (before.value or 0.0) and (now.value or 0.0) <= (
                now.ts_us - before.ts_us
            ) / SECOND + BORN_APART_S

        for probe, anew in (("process", born), ("health", fell)):
            line = self._line(probe, "app")

            def well(s: Sample) -> bool:
                return s.outcome == "ok" and s.value is not None

            first = bisect_right(line.times, window.start_us)
            before = next((s for s in reversed(line.samples[:first]) if well(s)), None)
            seen = [
                s for s in (before, *line.samples[first : bisect_right(line.times, window.end_us)]) if s and well(s)
            ]
            for before, now in itertools.pairwise(seen):
                if (
                    now.ts_us > window.start_us
                    and anew(before, now)
                    and not any(abs(now.ts_us - at) < 60 * SECOND for at in found)
                ):
                    found.append(now.ts_us)
        return sorted(found)

    def skew_s(self, subject: str, at_us: int) -> float | None:
        """Return the seconds by which a subject's clock is ahead of ours: the median of its last responses."""
        line = self._line(IS_THERE.get(subject, ""), subject)
        skews = [self.details(s).get("skew_s") for s in line.within(at_us - FRESH_US, at_us) if s.last][-SKEW_LOOKS:]
        known = sorted(s for s in skews if s is not None)
        return known[len(known) // 2] if known else None

    def skews(self, at_us: int) -> dict[str, float]:
        """Return the seconds by which each probed party's clock is ahead of ours, if it sends its time."""
        return {subject: skew for subject in IS_THERE if (skew := self.skew_s(subject, at_us)) is not None}

    def lost_share(self, window: Window) -> float | None:
        """
        Return the share of a window in which the collector was stalled, 0 to 1; None if it did not run at all.
        """
        heartbeats = self.within(*BEAT, window)
        if not heartbeats:
            return None
        lost_s: list[float] = [self.details(s).get("lag_s", 0.0) for s in heartbeats]
        every_us = self._heartbeats.every_us(bisect_left(self._heartbeats.times, heartbeats[0].ts_us))
        since_us = max(window.start_us, heartbeats[0].ts_us - max(every_us, round(lost_s[0] * SECOND)))
        lost_s[0] = min(lost_s[0], (heartbeats[0].ts_us - window.start_us) / SECOND)
        return min(1.0, sum(lost_s) * SECOND / max(1, window.end_us - since_us))

    def starved(self, window: Window) -> int:
        """Return the number of samples in a window that are not valid because the collector was stalled."""
        return bisect_right(self._starved_us, window.end_us) - bisect_right(self._starved_us, window.start_us)

    def network_gone(self, at_us: int) -> bool | None:
        """
        Return whether our network is down: neither provider can be connected to.

        None if fewer than two are probed, since one unreachable provider does not show a network fault.
        """
        found = [self.now("liveness", subject, at_us) for subject in ("massive", "tradier")]
        if any(sample is None for sample in found):
            return None
        return all(sample is not None and sample.outcome in TRANSPORT for sample in found)

    def market_shut(self, at_us: int) -> bool:
        """
        Return whether the providers report a closed market, at an instant of a session of our calendar.

        Every provider that responds must report it; a single one must have reported it twice in a row. A provider is
        ignored if its clock is so far off that the calendar is closed at its own time, unless the other one reports
        the same: then our clock is off.
        """
        reports = {
            subject: sample
            for subject in self.providers_with_market_state(at_us)
            if (sample := self.now("liveness", subject, at_us)) is not None
        }
        if not reports or any(_market(sample) not in CLOSED_WORDS for sample in reports.values()):
            return False
        at = clock.instant(at_us)
        by_own_clock = [
            market_calendar.open_since(at) is not None
            and market_calendar.open_since(at + timedelta(seconds=self.skew_s(s, at_us) or 0.0)) is None
            for s in reports
        ]
        if len(reports) > 1:
            return all(by_own_clock) or not any(by_own_clock)
        ((subject, sample),) = reports.items()
        line = self._line("liveness", subject)
        before = line.last(sample.ts_us - 1)
        return not by_own_clock[0] and before is not None and _market(before) in CLOSED_WORDS

    def providers_with_market_state(self, at_us: int) -> list[str]:
        """Return the providers that report a market state at an instant."""
        return [
            subject
            for subject in ("massive", "tradier")
            if (sample := self.now("liveness", subject, at_us)) is not None and _market(sample)
        ]

    def jumped(self, at_us: int) -> bool:
        """Return whether our clock jumped over an instant, so that nothing was observed then."""
        i = bisect_right(self._heartbeats.times, at_us)
        return (
            0 < i < len(self._heartbeats.times)
            and self._heartbeats.times[i] in self._heartbeats.set_us
            and self._heartbeats.times[i - 1] < at_us
        )

    def open_since(self, at_us: int) -> datetime | None:
        """
        Return since when the market is open at an instant, by the calendar and by the providers; None while closed.

        Time that our clock jumped over does not count as silence or delay, so the result is after the last jump.
        """
        opened = market_calendar.open_since(clock.instant(at_us))
        if opened is not None and (i := bisect_right(self._heartbeats.set_us, at_us)):
            opened = max(opened, clock.instant(self._heartbeats.set_us[i - 1]))
        if opened is None or not self._closed_us:
            return opened
        if self.market_shut(at_us):
            return None
        closings = (times[i - 1] for times in self._closed_us.values() if (i := bisect_right(times, at_us)))
        shut_us = next(
            (us for us in sorted(closings, reverse=True) if us > clock.micros(opened) and self.market_shut(us)), None
        )
        return opened if shut_us is None else clock.instant(shut_us)

    def serving(self, at_us: int) -> str | None:
        """
        Return the provider that can serve data: massive, else the fallback if configured, else "nobody".

        None if it is unknown.
        """
        subjects: list[str] = ["massive", "tradier"] if self.fallback == "tradier" else ["massive"]
        for subject in subjects:
            samples = [s for probe in ("liveness", "data") if (s := self.now(probe, subject, at_us)) is not None]
            if not samples:
                return None
            if all(OUTCOMES[s.outcome].usable for s in samples):
                return subject
        return "nobody"

    def chains(self, window: Window) -> dict[str, list[Sample]]:
        """Return the samples of fetched chains, by symbol, in order of time."""
        return {symbol: found for symbol in self.subjects("chain") if (found := self.within("chain", symbol, window))}


def _market(sample: Sample) -> str | None:
    """Return the market state in a response; None if there is none."""
    return sample.details().get("market") if sample.outcome == "ok" else None


def _took_s(sample: Sample) -> float | None:
    """
    Return the duration of an attempt, without the time that our process lost meanwhile; None if it is unknown.

    If our process lost most of the time, the rest does not describe the other side.
    """
    if sample.seconds is None or '"lag_s"' not in sample.detail:
        return sample.seconds
    lag_s = float(sample.details()["lag_s"])
    return None if doubtful(sample.seconds, lag_s) else sample.seconds - lag_s


def doubtful(seconds: float, lag_s: float) -> bool:
    """Return whether our process lost so much of an attempt's time that its duration is not valid."""
    return lag_s >= seconds / 2


def _state_changes(samples: Iterable[Sample]) -> int:
    answers = [o.answered for s in samples if (o := OUTCOMES[s.outcome]).answered is not None]
    return sum(a != b for a, b in itertools.pairwise(answers))


def load(samples: SampleStore, window: Window, known_at: datetime | None, fallback: str) -> ProbeHistory:
    """Load the samples of a window, as known at a moment, with the last heartbeat before it."""
    known_us = None if known_at is None else clock.micros(known_at)
    _, found = samples.written(-1, window.start_us, window.end_us, known_us)
    return _with_heartbeat(samples, found, window, known_us, fallback)


def _with_heartbeat(
    samples: SampleStore, found: list[Sample], window: Window, known_us: int | None, fallback: str
) -> ProbeHistory:
    if not any(s.probe == "beat" for s in found) and (heartbeat := samples.last("beat", window.start_us, known_us)):
        found.insert(0, heartbeat)
    return ProbeHistory(fallback, found)


class ProbeReader:
    """
    Loads the history of one window after another, as `load` does, but reads only the samples that are new.

    Where a new sample came late, our clock was set back, or no heartbeat is left, everything is loaded again. The
    history is one object, which changes.

    Args:
        lock: Held while the history changes; hold it to query it from another thread.
    """

    def __init__(self, store: Database, app: str, fallback: str, lock: AbstractContextManager[Any]):
        self._lock, self._samples, self._fallback = lock, SampleStore(store, app), fallback
        self._rows = NewRows(store, app, SAMPLES, Sample._fields)
        self._history: ProbeHistory | None = None

    def read(self, window: Window) -> ProbeHistory:
        """Load the history of a window."""
        history, self._history = self._history, None
        rows = self._rows.added(window.start_us, window.end_us) if history else None
        if rows is not None and history is not None:
            with self._lock:
                if history.move([sample_of(row) for row in rows], window.start_us):
                    self._history = history
        if self._history is None:
            found = [sample_of(row) for row in self._rows.everything(window.start_us, window.end_us)]
            self._history = _with_heartbeat(self._samples, found, window, None, self._fallback)
        return self._history

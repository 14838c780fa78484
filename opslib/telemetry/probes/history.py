"""
Compute what our own probes found over a window; no limits, no words for people.

Samples are laid in by their times and asked for any window (start, end]. A share counts attempts, a round trip is the
time of one; what stands now is the last look. Nothing is told of a time at which nobody looked.
"""

import itertools
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from opslib.foundation import clock, market_calendar
from opslib.foundation.clock import SECOND, Window
from opslib.telemetry.probes.outcomes import OUTCOMES, TRANSPORT
from opslib.telemetry.probes.store import Sample, SampleStore

REQUEST_PROBES = ("data", "health", "liveness", "metrics")  # The looks that ask a question and get an answer.
# Which of them says whether it is there at all.
IS_THERE = {"massive": "liveness", "tradier": "liveness", "app": "health"}
FRESH_US = 60 * SECOND  # What was last looked at longer ago says nothing of now, but where looks are further apart.
SKEW_LOOKS = 5
MOST_WINDOWS = 400
# The latter: an hour of looks, the longest that we let ourselves be told to wait.
KEPT, MOST_PASSED_OVER = "quota_kept", 800
BEAT, USUAL_S = ("beat", "collector"), 5.0
BORN_APART_S = 1.0
STARVED = "starved"  # A sample that says nothing of its subject: our own process could not run while it was taken.
CLOSED_WORDS = ("closed", "premarket", "postmarket", "extended-hours")  # What providers call a market that is not open.
# The probe whose samples are made between two others while the app's server is down; no rate counts them.
FOLLOW_UP = "follow_up"


class Share(NamedTuple):
    """So many of so many."""

    part: int
    count: int  # type: ignore[assignment]  # Nobody calls the tuple's own count.


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
        """Let go of what was made after a time."""
        at = bisect_right(self.times, at_us)
        del self.times[at:], self.samples[at:]

    def within(self, start_us: int, end_us: int) -> list[Sample]:
        return self.samples[bisect_right(self.times, start_us) : bisect_right(self.times, end_us)]

    def last(self, at_us: int) -> Sample | None:
        """The last look that was over at an instant; one that was not made, to keep within a quota, says nothing."""
        at = bisect_right(self.times, at_us)
        return next(
            (
                self.samples[i]
                for i in range(at - 1, max(-1, at - MOST_PASSED_OVER), -1)
                if self.samples[i].last and self.samples[i].outcome != KEPT
            ),
            None,
        )

    def forget(self, before_us: int) -> None:
        at = min(bisect_left(self.times, before_us), len(self.times) - 1)  # The last is how it stands, however old.
        del self.times[:at], self.samples[:at]


class _Beats(_Line):
    """The collector's beats, and for how long it has looked on since the first of them."""

    def __init__(self) -> None:
        super().__init__()
        self._covered: list[int] = []
        self.set_us: list[int] = []  # The beats before which our own clock was set forward, or the machine slept.

    def add(self, sample: Sample) -> None:
        super().add(sample)
        if '"stepped_s"' in sample.detail and sample.told()["stepped_s"] > 0:
            insort(self.set_us, sample.ts_us)
        if self.samples[-1] is not sample:
            self._covered = []  # One that came late: all after it is counted anew.

    def forget(self, before_us: int) -> None:
        super().forget(before_us)
        self._covered = []
        del self.set_us[: bisect_left(self.set_us, before_us)]

    def drop_after(self, at_us: int) -> None:
        super().drop_after(at_us)
        del self._covered[len(self.times) :], self.set_us[bisect_right(self.set_us, at_us) :]

    def every_us(self, i: int) -> int:
        """How long after a beat is the next one due?"""
        return round(float(self.samples[i].told().get("every_s", USUAL_S)) * SECOND)

    def covered(self) -> list[int]:
        """For how long has it looked on up to each beat? A gap longer than two beats is not looked through."""
        for i in range(len(self._covered), len(self.samples)):
            looked_us = (
                0
                if i == 0 or self.samples[i - 1].outcome == "stopped"
                else min(self.times[i] - self.times[i - 1], 2 * self.every_us(i))
            )
            self._covered.append((self._covered[-1] if self._covered else 0) + looked_us)
        return self._covered


class ProbeHistory:
    """
    What our own looks saw.

    Args:
        fallback: Who serves when Massive does not: ``tradier``, or ``none``.
        samples: Laid in at once; more may be added.
    """

    def __init__(self, fallback: str = "tradier", samples: Iterable[Sample] = ()):
        self.fallback = fallback
        self._beats = _Beats()
        self._lines: dict[tuple[str, str], _Line] = {}
        self._starved_us: list[int] = []
        self._closed_us: dict[str, list[int]] = {}  # When each provider said that the market is closed.
        # When new connections of the app's socket were served, and since when older ones are dead.
        self._renewed: list[tuple[int, int]] = []
        self._coverage: dict[tuple[int, int], float | None] = {}  # Of windows, until something more is laid in.
        self.add(samples)

    def add(self, samples: Iterable[Sample]) -> None:
        """Lay in what has come, in the order in which it was made."""
        self._coverage.clear()
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
                self._lines[key] = self._beats if key == BEAT else _Line()
            self._lines[key].add(sample)

    def _set_back(self, at_us: int) -> None:
        """
        Our own clock was set back to a time: what was made at later ones before that is of no time that it shows from
        now on.
        """
        for line in self._lines.values():
            line.drop_after(at_us)
        for times in (self._starved_us, *self._closed_us.values()):
            del times[bisect_right(times, at_us) :]

    @property
    def any(self) -> bool:
        """Was anything ever looked at?"""
        return bool(self._lines)

    def seen(self, probe: str, subject: str) -> bool:
        """Was it ever looked at?"""
        return (probe, subject) in self._lines

    @property
    def kinds(self) -> list[tuple[str, str]]:
        """Every kind of look that was ever made: (probe, subject)."""
        return sorted(key for key in self._lines if key[0] != FOLLOW_UP)

    def subjects(self, probe: str) -> list[str]:
        """Whom a probe was ever about."""
        return sorted(subject for name, subject in self._lines if name == probe)

    def _line(self, probe: str, subject: str) -> _Line:
        return self._lines.get((probe, subject)) or _Line()

    def within(self, probe: str, subject: str, window: Window) -> list[Sample]:
        """Every attempt of a window."""
        return self._line(probe, subject).within(window.start_us, window.end_us)

    def forget(self, before_us: int) -> None:
        """Let go of what was seen before an instant."""
        self._coverage.clear()
        for line in self._lines.values():
            line.forget(before_us)
        for times in (self._starved_us, *self._closed_us.values()):
            del times[: bisect_left(times, before_us)]

    @staticmethod
    def told(sample: Sample) -> dict[str, Any]:
        """What else a sample saw."""
        return sample.told()

    def now(self, probe: str, subject: str, at_us: int) -> Sample | None:
        """How does it stand at an instant? None where nobody has looked lately."""
        line = self._line(probe, subject)
        found, looked = line.last(at_us), bisect_right(line.times, at_us)
        # A look that is not made, to keep within a quota, is a look all the same: what was seen before it stands.
        lately = found is not None and (
            (ago_us := at_us - line.times[looked - 1]) <= FRESH_US or ago_us <= 3 * self._pace_us(line, looked)
        )
        return found if lately else None

    @staticmethod
    def _pace_us(line: _Line, looked: int) -> int:
        ends = [s.ts_us for s in line.samples[max(0, looked - 8) : looked] if s.last]
        gaps = sorted(b - a for a, b in itertools.pairwise(ends))
        return gaps[len(gaps) // 2] if gaps else 0

    def since(self, probe: str, subject: str, at_us: int) -> Sample | None:
        """
        The first of the looks that all ended as the last one did: since when is it so?

        None where nobody has looked lately.
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

    def answered(self, subject: str, window: Window) -> Share:
        """
        How many attempts did it answer as one that is up, of those that say anything of that?

        Our key, plan or quota, and a page of somebody else's, say nothing of it.
        """
        said = [OUTCOMES[s.outcome].answered for s in self._asked(subject, window) if s.probe == IS_THERE.get(subject)]
        known = [a for a in said if a is not None]
        return Share(sum(known), len(known))

    def usable(self, subject: str, window: Window) -> Share:
        """How many of our looks were given what they asked for?"""
        last = [OUTCOMES[s.outcome].usable for s in self._asked(subject, window) if s.last]
        return Share(sum(last), len(last))

    def around(self, probe: str, sample: Sample) -> list[Sample]:
        """
        The samples of a probe of the same subject just before and just after a sample, no further off than what is
        fresh.
        """
        line = self._line(probe, sample.subject)
        at = bisect_left(line.times, sample.ts_us)
        return [s for s in line.samples[max(0, at - 1) : at + 2] if abs(s.ts_us - sample.ts_us) <= FRESH_US]

    def turns(self, subject: str, window: Window) -> int:
        """
        How often did it turn from answering to not answering, or back?

        An outage turns twice, what comes and goes more often.
        """
        return _turns(self._asked_in_order(subject, window))

    def socket_turns(self, window: Window) -> int:
        """How often did the app's WebSocket turn from well to not well, or back?"""
        return _turns(self.within("socket", "app", window))

    def refused_attempts(self, subject: str, window: Window) -> Share:
        """How many attempts were refused for asking too often?"""
        asked = self._asked(subject, window)
        return Share(sum(s.outcome == "rate_limited_429" for s in asked), len(asked))

    def _asked_in_order(self, subject: str, window: Window) -> list[Sample]:
        return sorted(self._asked(subject, window), key=lambda s: s.ts_us)

    def trouble(self, subject: str, window: Window) -> str | None:
        """
        Which outcome stands for what is the matter with our looks?

        The most frequent that is not usable; None where all are.
        """
        outcomes = [s.outcome for s in self._asked(subject, window) if s.last and not OUTCOMES[s.outcome].usable]
        return max(sorted(set(outcomes)), key=outcomes.count) if outcomes else None

    def _asked(self, subject: str, window: Window) -> list[Sample]:
        return [s for probe in REQUEST_PROBES for s in self.within(probe, subject, window) if s.outcome != KEPT]

    def seconds(self, subject: str, window: Window, *more: str) -> list[float]:
        """
        How long did the attempts take that were answered, of the probe that says whether it is there, and of more?

        Sorted.
        """
        return sorted(
            took
            for probe in (IS_THERE[subject], *more)
            for s in self.within(probe, subject, window)
            if OUTCOMES[s.outcome].usable and (took := _took_s(s)) is not None
        )

    def round_trips(self, window: Window) -> list[float]:
        """How long did the app's WebSocket take to answer? Sorted."""
        return sorted(took for s in self.within("socket", "app", window) if (took := _took_s(s)) is not None)

    def coverage(self, window: Window) -> float | None:
        """
        For how much of a window did we look, from the first beat in it on? 0 to 1; None where we had not begun.

        Before the collector is started nobody expects it to look; after it has died it is missing.
        """
        key = window.start_us, window.end_us
        if key not in self._coverage:  # Many rules ask of one window.
            if len(self._coverage) > MOST_WINDOWS:
                self._coverage.clear()
            self._coverage[key] = self._covered(window)
        return self._coverage[key]

    def _covered(self, window: Window) -> float | None:
        beats, start_us, end_us = self._beats, window.start_us, window.end_us
        first, last = bisect_right(beats.times, start_us), bisect_right(beats.times, end_us) - 1
        running = first > 0 and beats.samples[first - 1].outcome != "stopped"  # Had we begun before the window?
        if last < first:
            return 0.0 if running else None
        covered = beats.covered()
        begun_us = start_us if running else beats.times[first]
        before_us = min(beats.times[first] - start_us, covered[first] - covered[first - 1]) if running else 0
        stopped = beats.samples[last].outcome == "stopped"
        after_us = 0 if stopped else min(end_us - beats.times[last], 2 * beats.every_us(last))
        whole_us = (beats.times[last] if stopped else end_us) - begun_us
        return min(1.0, (before_us + covered[last] - covered[first] + after_us) / whole_us) if whole_us > 0 else 1.0

    def missed_beats(self, at_us: int) -> float | None:
        """How many beats of the collector are missing at an instant? None where it never ran, or was stopped."""
        i = bisect_right(self._beats.times, at_us) - 1
        if i < 0 or self._beats.samples[i].outcome == "stopped":
            return None
        return float(max(0, (at_us - self._beats.times[i]) // self._beats.every_us(i) - 1))

    def old_dead_us(self, at_us: int) -> int | None:
        """
        Since when connections of the app's socket that are older are dead, though new ones are served: the newest such
        time found up to an instant, microseconds since 1970; None where there was none.
        """
        return max((dead_us for found_us, dead_us in self._renewed if found_us <= at_us), default=None)

    def socket_down_s(self, at_us: int) -> float | None:
        """
        For how long has the app's WebSocket been down, or open and silent (for all, or for old connections), at an
        instant? 0 where it is well; None where nobody looked lately.
        """
        last = self.now("socket", "app", at_us)
        if last is None:
            return None
        if OUTCOMES[last.outcome].usable:
            return 0.0
        since = self.since("socket", "app", at_us)
        assert since is not None
        heard_us = (
            last.ts_us - round(last.value * SECOND)
            if last.outcome in ("silent", "renewed") and last.value is not None
            else since.ts_us
        )
        return max(0.0, (at_us - min(heard_us, since.ts_us)) / SECOND)

    def errors(self, window: Window) -> int | None:
        """How many errors did the app log in a window? None where its log was not read."""
        found = [s for s in self.within("log", "app", window) if s.outcome == "ok"]
        return round(sum(s.value or 0 for s in found)) if found else None

    def log_kinds(self, window: Window) -> dict[str, int]:
        """How many lines of each kind did the app log?"""
        kinds: dict[str, int] = {}
        for sample in self.within("log", "app", window):
            for kind, count in self.told(sample).get("kinds", {}).items():
                kinds[kind] = kinds.get(kind, 0) + count
        return dict(sorted(kinds.items()))

    def log_newest(self, window: Window) -> dict[str, str]:
        """The newest line of each kind of error."""
        return {
            kind: line
            for sample in self.within("log", "app", window)
            for kind, line in self.told(sample).get("newest", {}).items()
        }

    def gave_up_after_ms(self, window: Window) -> int | None:
        """After what time does the app say that it gave up waiting? The shortest; None where it says none."""
        return min(
            (ms for s in self.within("log", "app", window) if (ms := self.told(s).get("waited_ms")) is not None),
            default=None,
        )

    def growth_mb_per_h(self, window: Window) -> tuple[float, int] | None:
        """
        How fast does the app's process grow since it was last started: a straight line through its memory, and of how
        many looks?
        """
        found = [s for s in self.within("process", "app", window) if s.outcome == "ok" and s.value is not None]
        if found:
            born = self.told(found[-1]).get("born")
            found = [s for s in found if self.told(s).get("born") == born]
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

    def restarts(self, window: Window) -> list[int]:
        """When was the app's server started anew? By the birth of its process, and by its own uptime that went back."""
        found: list[int] = []

        def born(before: Sample, now: Sample) -> bool:
            return bool(self.told(now).get("born", 0) - self.told(before).get("born", 0) > BORN_APART_S)

        # An uptime that went back to more than the time since is that of another process behind the same address.
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
        """By how much is its clock ahead of ours? The median of its last answers."""
        line = self._line(IS_THERE.get(subject, ""), subject)
        told = [self.told(s).get("skew_s") for s in line.within(at_us - FRESH_US, at_us) if s.last][-SKEW_LOOKS:]
        known = sorted(s for s in told if s is not None)
        return known[len(known) // 2] if known else None

    def skews(self, at_us: int) -> dict[str, float]:
        """By how many seconds each party's clock is ahead of ours, of those that we probe and that state their time."""
        return {subject: skew for subject in IS_THERE if (skew := self.skew_s(subject, at_us)) is not None}

    def lost_share(self, window: Window) -> float | None:
        """
        Share of a window in which our own collector could not run when it was due, 0 to 1; None where it did not run at
        all.
        """
        beats = self.within(*BEAT, window)
        if not beats:
            return None
        lost_s: list[float] = [self.told(s).get("lag_s", 0.0) for s in beats]
        every_us = self._beats.every_us(bisect_left(self._beats.times, beats[0].ts_us))
        since_us = max(window.start_us, beats[0].ts_us - max(every_us, round(lost_s[0] * SECOND)))
        lost_s[0] = min(lost_s[0], (beats[0].ts_us - window.start_us) / SECOND)
        return min(1.0, sum(lost_s) * SECOND / max(1, window.end_us - since_us))

    def starved(self, window: Window) -> int:
        """How many samples of a window were dropped because our own process could not run while they were taken."""
        return bisect_right(self._starved_us, window.end_us) - bisect_right(self._starved_us, window.start_us)

    def network_gone(self, at_us: int) -> bool | None:
        """
        Is it our own network? So where neither provider can even be connected to, though both are looked at.

        None where fewer than two are looked at: one that cannot be connected to says nothing of the network.
        """
        found = [self.now("liveness", subject, at_us) for subject in ("massive", "tradier")]
        if any(sample is None for sample in found):
            return None
        return all(sample is not None and sample.outcome in TRANSPORT for sample in found)

    def market_shut(self, at_us: int) -> bool:
        """
        Whether the providers say that the market is closed, at an instant of a session of our calendar.

        Every provider that answers must say so; one that does not answer has no say. A single voice must have said so
        twice in a row. A provider whose clock is so far off that the calendar is closed at its own time has no say
        either, unless the other one says the same: then it is our clock that is off.
        """
        said = {
            subject: sample
            for subject in self.market_said_by(at_us)
            if (sample := self.now("liveness", subject, at_us)) is not None
        }
        if not said or any(_market(sample) not in CLOSED_WORDS for sample in said.values()):
            return False
        at = clock.instant(at_us)
        by_own_clock = [
            market_calendar.open_since(at) is not None
            and market_calendar.open_since(at + timedelta(seconds=self.skew_s(s, at_us) or 0.0)) is None
            for s in said
        ]
        if len(said) > 1:
            return all(by_own_clock) or not any(by_own_clock)
        ((subject, sample),) = said.items()
        line = self._line("liveness", subject)
        before = line.last(sample.ts_us - 1)
        return not by_own_clock[0] and before is not None and _market(before) in CLOSED_WORDS

    def market_said_by(self, at_us: int) -> list[str]:
        """Which providers say something of the market at an instant."""
        return [
            subject
            for subject in ("massive", "tradier")
            if (sample := self.now("liveness", subject, at_us)) is not None and _market(sample)
        ]

    def jumped(self, at_us: int) -> bool:
        """Whether our own clock jumped over an instant, so that nothing can have been observed at it."""
        i = bisect_right(self._beats.times, at_us)
        return (
            0 < i < len(self._beats.times)
            and self._beats.times[i] in self._beats.set_us
            and self._beats.times[i - 1] < at_us
        )

    def open_since(self, at_us: int) -> datetime | None:
        """
        Since when the market is open at an instant: by the calendar, and by what the providers say. None while it is
        closed.

        What our own clock jumped over is no time that anybody was silent or late in, so it counts from there on.
        """
        opened = market_calendar.open_since(clock.instant(at_us))
        if opened is not None and (i := bisect_right(self._beats.set_us, at_us)):
            opened = max(opened, clock.instant(self._beats.set_us[i - 1]))
        if opened is None or not self._closed_us:
            return opened
        if self.market_shut(at_us):
            return None
        said = (times[i - 1] for times in self._closed_us.values() if (i := bisect_right(times, at_us)))
        shut_us = next(
            (us for us in sorted(said, reverse=True) if us > clock.micros(opened) and self.market_shut(us)), None
        )
        return opened if shut_us is None else clock.instant(shut_us)

    def serving(self, at_us: int) -> str | None:
        """
        Who can serve data now: massive, else the fallback where there is one, else nobody; None where it is not known.
        """
        subjects: list[str] = ["massive", "tradier"] if self.fallback == "tradier" else ["massive"]
        for subject in subjects:
            stands = [s for probe in ("liveness", "data") if (s := self.now(probe, subject, at_us)) is not None]
            if not stands:
                return None
            if all(OUTCOMES[s.outcome].usable for s in stands):
                return subject
        return "nobody"

    def chains(self, window: Window) -> dict[str, list[Sample]]:
        """The chains that were fetched, by symbol, in order of time."""
        return {symbol: found for symbol in self.subjects("chain") if (found := self.within("chain", symbol, window))}


def _market(sample: Sample) -> str | None:
    """What an answer says of the market; None where it says nothing."""
    return sample.told().get("market") if sample.outcome == "ok" else None


def _took_s(sample: Sample) -> float | None:
    """
    How long an attempt took, without what our own process lost meanwhile; None where that cannot be said.

    Where we lost most of the time, the rest says nothing of the other side.
    """
    if sample.seconds is None or '"lag_s"' not in sample.detail:
        return sample.seconds
    lag_s = float(sample.told()["lag_s"])
    return None if doubtful(sample.seconds, lag_s) else sample.seconds - lag_s


def doubtful(seconds: float, lag_s: float) -> bool:
    """Whether so much of an attempt's time was lost by our own process that the rest says nothing of the other side."""
    return lag_s >= seconds / 2


def _turns(samples: Iterable[Sample]) -> int:
    said = [o.answered for s in samples if (o := OUTCOMES[s.outcome]).answered is not None]
    return sum(a != b for a, b in itertools.pairwise(said))


def load(samples: SampleStore, window: Window, known_at: datetime | None, fallback: str) -> ProbeHistory:
    """What our own looks saw up to the end of a window, as known at a moment; and the last beat before it."""
    known_us = None if known_at is None else clock.micros(known_at)
    _, found = samples.written(-1, window.start_us, window.end_us, known_us)
    if not any(s.probe == "beat" for s in found) and (beat := samples.last("beat", window.start_us, known_us)):
        found.insert(0, beat)
    return ProbeHistory(fallback, found)

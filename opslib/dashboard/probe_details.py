"""Show our own probes in detail: each question one table or picture."""

import itertools
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opslib.dashboard.status import Status
from opslib.dashboard.text_blocks import TextBlock, bullet_list, table
from opslib.foundation import clock, formatting
from opslib.foundation.clock import Window
from opslib.foundation.storage.snapshot_columns import PROVIDERS
from opslib.telemetry.probes.history import IS_THERE, REQUEST_PROBES, ProbeHistory
from opslib.telemetry.probes.outcomes import OUTCOMES
from opslib.telemetry.probes.store import Sample

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOBODY_LOOKED = "nobody looked: ops collect does, at what the settings name"
SHOWN = 20


def _local(at_us: int) -> str:
    return f"{clock.instant(at_us).astimezone(formatting.NEW_YORK):%m-%d %H:%M:%S}"


@dataclass(frozen=True)
class Speed:
    """How long our looks took, as a picture."""

    probed: ProbeHistory
    view: Status
    subjects: tuple[str, ...]

    def __repr__(self) -> str:
        counts = [f"{subject} {len(self.probed.seconds(subject, self.view.window))}" for subject in self.subjects]
        return f"answers that were timed: {', '.join(counts)}"

    def _ipython_display_(self) -> None:
        from opslib.dashboard import charts

        def draw(ax: "Axes") -> "Axes":
            looked = charts.looked(ax, self.probed, self.view.window, self.view.rules, self.subjects)
            return charts.with_markers(looked, self.view.marks)

        charts.show(
            {"text/plain": repr(self)},
            draw,
            "our looks over time",
            f"How long our looks took, and which failed: {self!r}",
        )


@dataclass(frozen=True)
class ProbeDetails:
    """What lies under the panels of a view."""

    view: Status

    @property
    def _probed(self) -> ProbeHistory:
        return self.view.probed or ProbeHistory()

    @property
    def _window(self) -> Window:
        return self.view.window

    @property
    def providers(self) -> TextBlock:
        """Do they answer us, how fast, may we have the data, is it new, what is left of the quota?"""
        sights = self.view.as_json()["panels"]["providers"]["probes"]
        rows = []
        for name in PROVIDERS:
            if f := sights.get(name):
                age = formatting.UNKNOWN if f["data_age_s"] is None else formatting.duration(f["data_age_s"])
                rows.append(
                    [
                        name,
                        f["outcome"],
                        f["fault"],
                        formatting.ratio(f["availability"]),
                        f"{f['usable']} of {f['looks']}",
                        formatting.number(f["p95_s"], "s", 3),
                        formatting.number(f["mean_s"], "s", 3),
                        age,
                        formatting.number(f["quota_left"]),
                    ]
                )
        return table(
            f"Our own looks, {self._window}",
            ["of", "now", "fault", "available", "usable", "p95", "mean", "data's age", "quota left"],
            rows,
            NOBODY_LOOKED,
        )

    @property
    def serving(self) -> TextBlock:
        """Who can serve now?"""
        sights = self.view.as_json()["panels"]["providers"]["probes"]
        told = {
            "massive": "massive serves",
            "tradier": "tradier serves, in massive's place",
            "nobody": "nobody can serve",
            None: "who serves is not known",
        }[sights.get("serving")]
        network = {
            "gone": "our own network is gone",
            "ok": "our own network is well",
            None: "our own network cannot be told apart: both providers must be looked at",
        }[sights.get("our_network")]
        return bullet_list(
            told,
            [
                network,
                "no fallback is configured (OPS_FALLBACK=none)"
                if self._probed.fallback == "none"
                else "the fallback is tradier",
            ],
        )

    @property
    def outcomes(self) -> TextBlock:
        """How did our looks end, and whose fault was it?"""
        counts = Counter(
            (s.subject, s.probe, s.outcome)
            for subject in ("massive", "tradier", "app")
            for probe in (*REQUEST_PROBES, "socket")
            for s in self._probed.within(probe, subject, self._window)
        )
        rows = [
            [
                subject,
                probe,
                outcome,
                OUTCOMES[outcome].fault,
                formatting.number(n),
                {True: "yes", False: "no", None: "says nothing of it"}[OUTCOMES[outcome].answered],
            ]
            for (subject, probe, outcome), n in sorted(counts.items())
        ]
        return table(
            "How each attempt ended",
            ["of", "look", "outcome", "fault", "attempts", "counts as up"],
            rows,
            NOBODY_LOOKED,
        )

    @property
    def outages(self) -> TextBlock:
        """When did a look give nothing usable, for how long, and why?"""
        rows = (
            [row for subject in ("massive", "tradier", "app") for row in self._stretches(IS_THERE[subject], subject)]
            + self._stretches("data", "massive")
            + self._stretches("data", "tradier")
            + self._stretches("socket", "app")
        )
        return table(
            "Stretches without a usable look",
            ["from (New York)", "of", "look", "for", "looks", "outcomes"],
            sorted(rows),
            "none" if self._probed.any else NOBODY_LOOKED,
        )

    def _stretches(self, probe: str, subject: str) -> list[list[str]]:
        found, run = list[list[str]](), list[Sample]()
        looks = [s for s in self._probed.within(probe, subject, self._window) if s.last]
        for sample in [*looks, None]:
            if sample is not None and not OUTCOMES[sample.outcome].usable:
                run.append(sample)
                continue
            if run:
                begun_us = run[0].ts_us - round((run[0].seconds or 0.0) * 1e6)
                lasted = "still" if sample is None else formatting.duration((sample.ts_us - begun_us) / 1e6)
                found.append(
                    [
                        _local(begun_us),
                        subject,
                        probe,
                        lasted,
                        str(len(run)),
                        ", ".join(f"{o} {n}" for o, n in Counter(s.outcome for s in run).most_common()),
                    ]
                )
            run = []
        return found

    @property
    def provider_speed(self) -> Speed:
        """How long did they take to answer us, over time?"""
        return Speed(self._probed, self.view, PROVIDERS)

    @property
    def app_speed(self) -> Speed:
        """How long did the app's server take to answer us, over time?"""
        return Speed(self._probed, self.view, ("app",))

    @property
    def against_page(self) -> TextBlock:
        """What does the app's page say of the same providers?"""
        rows = []
        for name in PROVIDERS:
            page, ours = self.view.figures["providers"][name], self._probed.answered(name, self._window)
            rows.append(
                [
                    name,
                    f"{formatting.ratio(page['availability'])} of {formatting.number(page['requests'])} requests",
                    f"{formatting.ratio(ours.part / ours.count if ours.count else None)} of "
                    f"{formatting.number(ours.count)} attempts",
                ]
            )
        return table("The page's word beside ours", ["of", "the app's page", "our own looks"], rows)

    @property
    def chains(self) -> TextBlock:
        """Which chains were fetched, whole, and what do their tradable contracts look like?"""
        rows = []
        for symbol, found in self._probed.chains(self._window).items():
            for sample in found[-SHOWN:]:
                told = self._probed.told(sample)
                counts = [
                    formatting.number(told.get(key))
                    for key in ("core", "flagged", "missing", "gamma_zero", "delta_out_of_bounds")
                ]
                rows.append(
                    [
                        _local(sample.ts_us),
                        symbol,
                        sample.outcome,
                        formatting.number(sample.value),
                        *counts,
                        formatting.ratio(told.get("iv_atm"), 1),
                    ]
                )
        return table(
            "Chains fetched",
            [
                "at (New York)",
                "symbol",
                "outcome",
                "contracts",
                "tradable",
                "with a fault",
                "no Greeks",
                "gamma 0",
                "delta out",
                "IV at the money",
            ],
            rows,
            "none in this window",
        )

    @property
    def log(self) -> TextBlock:
        """What did the app log, of which kinds, how often?"""
        kinds, newest = self._probed.log_kinds(self._window), self._probed.log_newest(self._window)
        hours = max(self._window.seconds / 3600, 1 / 60)
        rows = [
            [kind, formatting.number(n), formatting.number(n / hours, digits=1), newest.get(kind, "")]
            for kind, n in sorted(kinds.items(), key=lambda k: (-k[1], k[0]))
        ]
        return table(
            f"What the app logged; {formatting.number(self._probed.errors(self._window))} errors",
            ["kind", "lines", "an hour", "newest"],
            rows,
            "its log was not read",
        )

    @property
    def server(self) -> TextBlock:
        """How is the app's server: its process, its restarts, its memory?"""
        told = self.view.as_json()["panels"]["system"].get("probes", {})
        process, lines = told.get("process", {}), list[str]()
        if app := told.get("app"):
            lines.append(
                f"health look: {app['outcome']}, p95 {formatting.number(app['p95_s'], 's', 3)}, {app['usable']} of "
                f"{app['looks']} looks usable"
            )
        if process:
            grows = process.get("growth_mb_per_h")
            lines.append(
                f"process: {process['outcome']}, {formatting.number(process['value'], 'MB', 1)}, growth "
                f"{formatting.UNKNOWN if grows is None else f'{grows:+.1f} MB per h'}"
            )
        lines += [f"started anew at {_local(at)} New York" for at in self._probed.restarts(self._window)]
        return bullet_list("The app's server", lines or [NOBODY_LOOKED])

    @property
    def socket(self) -> TextBlock:
        """How was the app's WebSocket, look by look?"""
        found = list(self._probed.within("socket", "app", self._window))
        counts = Counter(s.outcome for s in found)
        trips = self._probed.round_trips(self._window)
        ages = [s.value for s in found if s.value is not None]
        lines = [f"{outcome}: {n} looks" for outcome, n in counts.most_common()]
        lines += (
            [
                f"round trip: median {formatting.number(trips[len(trips) // 2], 's', 3)}, longest "
                f"{formatting.number(trips[-1], 's', 3)}"
            ]
            if trips
            else []
        )
        lines += [f"oldest last message: {formatting.duration(max(ages))}"] if ages else []
        return bullet_list("The app's WebSocket", lines or [NOBODY_LOOKED])

    @property
    def clocks(self) -> TextBlock:
        """Whose clock is off, against ours?"""
        skews = [(s, self._probed.skew_s(s, self._window.end_us)) for s in (*PROVIDERS, "app")]
        return bullet_list(
            "Clocks against ours", [f"{s}: {k:+.1f} s" for s, k in skews if k is not None] or [NOBODY_LOOKED]
        )

    @property
    def host(self) -> TextBlock:
        """What is to be seen on the app's host?"""
        last = {self._probed.told(s)["name"]: s for s in self._probed.within("host", "app", self._window)}
        rows = [
            [
                name,
                {"ok": "ok", "server_5xx": "wrong"}.get(s.outcome, "unknown"),
                self._probed.told(s)["told"],
                _local(s.ts_us),
            ]
            for name, s in last.items()
        ]
        return table(
            "On the app's host",
            ["looked at", "is", "seen", "at (New York)"],
            rows,
            "nobody looks there: set host_prefix in settings.toml; ops doctor names the commands for a person",
        )

    @property
    def collector(self) -> TextBlock:
        """Do we ourselves look on?"""
        beats = self._probed.within("beat", "collector", self._window)
        if not beats:
            return bullet_list("Our collector", [NOBODY_LOOKED])
        memory = [b.value for b in beats if b.value is not None]
        files = [self._probed.told(b).get("files") for b in beats]
        gaps = [(b.ts_us - a.ts_us) / 1e6 for a, b in itertools.pairwise(beats)]
        lines = [
            f"{len(beats):,} beats, the longest gap {formatting.duration(max(gaps, default=0.0))}",
            f"memory {min(memory):.0f} to {max(memory):.0f} MB",
        ]
        lines += (
            [f"open files {min(f for f in files if f is not None)} to {max(f for f in files if f is not None)}"]
            if any(f is not None for f in files)
            else []
        )
        return bullet_list("Our collector", lines)

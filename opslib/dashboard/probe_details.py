"""Show our probes in detail, in tables and charts."""

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

NO_PROBES = "no probes: start ops collect, which probes what the settings name"
MOST_CHAINS = 20


def _local(at_us: int) -> str:
    return f"{clock.instant(at_us).astimezone(formatting.NEW_YORK):%m-%d %H:%M:%S}"


@dataclass(frozen=True)
class ResponseTimes:
    """A chart of the response times of our probes."""

    probed: ProbeHistory
    view: Status
    subjects: tuple[str, ...]

    def __repr__(self) -> str:
        counts = [f"{subject} {len(self.probed.seconds(subject, self.view.window))}" for subject in self.subjects]
        return f"timed responses: {', '.join(counts)}"

    def _ipython_display_(self) -> None:
        from opslib.dashboard import charts

        def draw(ax: "Axes") -> "Axes":
            drawn = charts.response_times(ax, self.probed, self.view.window, self.view.rules, self.subjects)
            return charts.with_markers(drawn, self.view.marks)

        charts.show(
            {"text/plain": repr(self)},
            draw,
            "response times of our probes",
            f"Response times of our probes, and which probes failed: {self!r}",
        )


@dataclass(frozen=True)
class ProbeDetails:
    """The details behind the panels of a status."""

    view: Status

    @property
    def _probed(self) -> ProbeHistory:
        return self.view.probed or ProbeHistory()

    @property
    def _window(self) -> Window:
        return self.view.window

    @property
    def providers(self) -> TextBlock:
        """For each provider: the newest outcome, availability, response times, age of the data, remaining quota."""
        figures = self.view.as_json()["panels"]["providers"]["probes"]
        rows = []
        for name in PROVIDERS:
            if f := figures.get(name):
                age = formatting.UNKNOWN if f["data_age_s"] is None else formatting.duration(f["data_age_s"])
                rows.append(
                    [
                        name,
                        f["outcome"],
                        f["fault"],
                        formatting.ratio(f["availability"]),
                        f"{f['usable']} of {f['total']}",
                        formatting.number(f["p95_s"], "s", 3),
                        formatting.number(f["mean_s"], "s", 3),
                        age,
                        formatting.number(f["quota_left"]),
                    ]
                )
        return table(
            f"Probes, {self._window}",
            ["provider", "outcome now", "fault", "available", "succeeded", "p95", "mean", "data age", "quota left"],
            rows,
            NO_PROBES,
        )

    @property
    def serving(self) -> TextBlock:
        """Which provider can serve now."""
        figures = self.view.as_json()["panels"]["providers"]["probes"]
        serving = {
            "massive": "massive serves",
            "tradier": "tradier serves instead of massive",
            "nobody": "no provider can serve",
            None: "unknown which provider serves",
        }[figures.get("serving")]
        network = {
            "gone": "our network is down",
            "ok": "our network is ok",
            None: "our network: unknown, because not both providers are probed",
        }[figures.get("our_network")]
        return bullet_list(
            serving,
            [
                network,
                "no fallback is configured (OPS_FALLBACK=none)"
                if self._probed.fallback == "none"
                else "the fallback is tradier",
            ],
        )

    @property
    def outcomes(self) -> TextBlock:
        """How the attempts of our probes ended, and whose fault it was."""
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
                {True: "yes", False: "no", None: "neither"}[OUTCOMES[outcome].answered],
            ]
            for (subject, probe, outcome), n in sorted(counts.items())
        ]
        return table(
            "How each attempt ended",
            ["subject", "probe", "outcome", "fault", "attempts", "counts as up"],
            rows,
            NO_PROBES,
        )

    @property
    def outages(self) -> TextBlock:
        """Periods without a usable probe: when, how long, and with which outcomes."""
        rows = (
            [row for subject in ("massive", "tradier", "app") for row in self._outages_of(IS_THERE[subject], subject)]
            + self._outages_of("data", "massive")
            + self._outages_of("data", "tradier")
            + self._outages_of("socket", "app")
        )
        return table(
            "Periods without a usable probe",
            ["from (New York)", "subject", "probe", "duration", "probes", "outcomes"],
            sorted(rows),
            "none" if self._probed.any else NO_PROBES,
        )

    def _outages_of(self, probe: str, subject: str) -> list[list[str]]:
        found, run = list[list[str]](), list[Sample]()
        probes = [s for s in self._probed.within(probe, subject, self._window) if s.last]
        for sample in [*probes, None]:
            if sample is not None and not OUTCOMES[sample.outcome].usable:
                run.append(sample)
                continue
            if run:
                begun_us = run[0].ts_us - round((run[0].seconds or 0.0) * 1e6)
                lasted = "ongoing" if sample is None else formatting.duration((sample.ts_us - begun_us) / 1e6)
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
    def provider_response_times(self) -> ResponseTimes:
        """The response times of the providers over time."""
        return ResponseTimes(self._probed, self.view, PROVIDERS)

    @property
    def app_response_times(self) -> ResponseTimes:
        """The response times of the app's server over time."""
        return ResponseTimes(self._probed, self.view, ("app",))

    @property
    def page_comparison(self) -> TextBlock:
        """The availability of the providers by the app's page and by our probes."""
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
        return table(f"Availability by source, {self._window}", ["provider", "app page", "probes"], rows)

    @property
    def chains(self) -> TextBlock:
        """The chains that were fetched, and the state of their tradable contracts."""
        rows = []
        for symbol, found in self._probed.chains(self._window).items():
            for sample in found[-MOST_CHAINS:]:
                detail = self._probed.details(sample)
                counts = [
                    formatting.number(detail.get(key))
                    for key in ("core", "flagged", "missing", "gamma_zero", "delta_out_of_bounds")
                ]
                rows.append(
                    [
                        _local(sample.ts_us),
                        symbol,
                        sample.outcome,
                        formatting.number(sample.value),
                        *counts,
                        formatting.ratio(detail.get("iv_atm"), 1),
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
                "delta out of bounds",
                "IV at the money",
            ],
            rows,
            "none in this window",
        )

    @property
    def log(self) -> TextBlock:
        """What the app logged, by kind, and how often."""
        kinds, newest = self._probed.log_kinds(self._window), self._probed.log_newest(self._window)
        hours = max(self._window.seconds / 3600, 1 / 60)
        rows = [
            [kind, formatting.number(n), formatting.number(n / hours, digits=1), newest.get(kind, "")]
            for kind, n in sorted(kinds.items(), key=lambda k: (-k[1], k[0]))
        ]
        return table(
            f"App log: {formatting.number(self._probed.errors(self._window))} errors, {self._window}",
            ["kind", "lines", "per hour", "newest"],
            rows,
            "the log was not read",
        )

    @property
    def server(self) -> TextBlock:
        """The app's server: its process, its restarts, its memory."""
        figures = self.view.as_json()["panels"]["system"].get("probes", {})
        process, lines = figures.get("process", {}), list[str]()
        if app := figures.get("app"):
            lines.append(
                f"health probe: {app['outcome']}, p95 {formatting.number(app['p95_s'], 's', 3)}, {app['usable']} of "
                f"{app['total']} probes succeeded"
            )
        if process:
            grows = process.get("growth_mb_per_h")
            lines.append(
                f"process: {process['outcome']}, {formatting.number(process['value'], 'MB', 1)}, growth "
                f"{formatting.UNKNOWN if grows is None else f'{grows:+z.1f} MB per h'}"
            )
        lines += [f"restarted at {_local(at)} New York" for at in self._probed.restarts(self._window)]
        return bullet_list("The app's server", lines or [NO_PROBES])

    @property
    def socket(self) -> TextBlock:
        """The app's WebSocket: outcomes, round trips, age of the messages."""
        found = list(self._probed.within("socket", "app", self._window))
        counts = Counter(s.outcome for s in found)
        trips = self._probed.round_trips(self._window)
        ages = [s.value for s in found if s.value is not None]
        lines = [f"{outcome}: {n} probes" for outcome, n in counts.most_common()]
        lines += (
            [
                f"round trip: median {formatting.number(trips[len(trips) // 2], 's', 3)}, longest "
                f"{formatting.number(trips[-1], 's', 3)}"
            ]
            if trips
            else []
        )
        lines += [f"oldest last message: {formatting.duration(max(ages))}"] if ages else []
        return bullet_list("The app's WebSocket", lines or [NO_PROBES])

    @property
    def clocks(self) -> TextBlock:
        """The offset of each clock from this machine's."""
        skews = [(s, self._probed.skew_s(s, self._window.end_us)) for s in (*PROVIDERS, "app")]
        return bullet_list(
            "Clock offsets from this machine", [f"{s}: {k:+z.1f} s" for s, k in skews if k is not None] or [NO_PROBES]
        )

    @property
    def host(self) -> TextBlock:
        """The newest checks on the app's host."""
        last = {self._probed.details(s)["name"]: s for s in self._probed.within("host", "app", self._window)}
        rows = [
            [
                name,
                {"ok": "ok", "server_5xx": "failed"}.get(s.outcome, "unknown"),
                self._probed.details(s)["told"],
                _local(s.ts_us),
            ]
            for name, s in last.items()
        ]
        return table(
            "Checks on the app's host",
            ["check", "result", "details", "at (New York)"],
            rows,
            "the host is not checked: set host_prefix in settings.toml, or run the commands that ops doctor lists",
        )

    @property
    def collector(self) -> TextBlock:
        """The collector: heartbeats, gaps, memory, open files."""
        heartbeats = self._probed.within("beat", "collector", self._window)
        if not heartbeats:
            return bullet_list("Collector", [NO_PROBES])
        memory = [b.value for b in heartbeats if b.value is not None]
        files = [self._probed.details(b).get("files") for b in heartbeats]
        gaps = [(b.ts_us - a.ts_us) / 1e6 for a, b in itertools.pairwise(heartbeats)]
        lines = [
            f"{len(heartbeats):,} heartbeats, longest gap {formatting.duration(max(gaps, default=0.0))}",
            f"memory {min(memory):.0f} to {max(memory):.0f} MB",
        ]
        lines += (
            [f"open files {min(f for f in files if f is not None)} to {max(f for f in files if f is not None)}"]
            if any(f is not None for f in files)
            else []
        )
        return bullet_list("Collector", lines)

"""
Make Home: what is broken now and what to open first, then the dashboard, runbooks, reports and checklists.

It is shown in three places: in the notebook that `ops lab` opens, in ``index.html`` of the home directory, and at ``/``
of `ops serve`. Each gives the function that says under which address it can open a file.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from opslib.alerting import effects
from opslib.alerting.causes import whose
from opslib.alerting.notifications.message import DO_FIRST, command
from opslib.alerting.verdicts import VERDICTS
from opslib.dashboard import impact, status
from opslib.dashboard.panels import Panel
from opslib.dashboard.status import Status
from opslib.dashboard.text_blocks import TextBlock
from opslib.dashboard.text_blocks import answer as answer_block
from opslib.foundation import clock, formatting, market_calendar
from opslib.foundation.config import settings as settings_module
from opslib.foundation.config.rules import SENT, SEVERITIES
from opslib.foundation.config.workspace import Workspace
from opslib.incidents import lifecycle
from opslib.incidents.incident import CLOSED, Incident
from opslib.jobs import jupyterlab, ledger
from opslib.reports import published_runs
from opslib.reports.published_runs import PublishedRun
from opslib.runbooks import catalog, due_checklists, incident_page
from opslib.runbooks.diagnosis.diagnosis import Diagnosis, diagnose
from opslib.runbooks.due_checklists import DueChecklist

EVERY_S = 30.0  # Where a person uses the notebook, Home is checked this often.
WATCHED = f"checked every {EVERY_S:.0f} s, shown again when something changes"
Address = Callable[[Path], str]  # Returns where a file can be opened, as a URL; empty where it cannot.
RUNBOOKS_PAGE = "runbooks.html"
OTHER_ALERTS = "Other active alerts"
OTHER = "incident"  # The runbook of an incident that has no other.
CLOSED_INCIDENTS, REPORTS = 5, 8  # How many of them are listed.
NOTEBOOKS = {
    "dashboard": "Dashboard at a given time",
    "provider_health": "Provider details",
    "greeks_quality": "Greeks quality details",
    "pnl_accuracy": "P&L compared with the backtest",
    "system_health": "App details",
    "drills": "Drills of the runbooks",
}
SERVES = {"fails": "critical", "unknown": "unknown", "works": "ok"}  # In the order in which they are listed.


class Link(NamedTuple):
    """
    Something that can be opened.

    Attributes:
        address: Its URL; empty where it cannot be opened from the page, then its words are shown.
        note: What is said beside it; of an answer's link, the command that shows the same in a terminal.
    """

    words: str
    address: str
    note: str = ""


@dataclass(frozen=True)
class Answer:
    """
    What is broken, or that nothing is.

    Attributes:
        verdict: A key of `formatting.SIGNS`.
        words: The answer as one sentence.
        facts: What is known about it, each in a few words.
        links: What to open, the first one first.
        first: What to do first, and who does it; empty if nothing active says it.
        advice: What to do where a link is not enough.
        unowned: The id of its incident if nobody has acknowledged it.
    """

    verdict: str
    words: str
    facts: list[str]
    links: list[Link]
    first: str = ""
    advice: str = ""
    unowned: str = ""


@dataclass(frozen=True)
class Home:
    """
    Home of one app at a moment.

    Attributes:
        answer: The first row: what is broken now.
        others: The other open incidents and alerts to act on, worst first.
        open_count: How many incidents are open, that of the answer included.
        alert_count: How many alerts to act on belong to no open incident; those of two sources are one.
        alerts: The other active alerts, which nobody is notified of.
    """

    workspace: Workspace
    view: Status
    address: Address
    answer: Answer
    others: list[Answer]
    open_count: int
    alert_count: int
    closed: list[Incident]
    alerts: list[dict[str, Any]]
    reports: list[PublishedRun]
    dashboards: list[Path]
    checklists: list[DueChecklist]

    @property
    def block(self) -> TextBlock:
        """Home as plain text, HTML and Markdown."""
        return self.shown()

    @property
    def substance(self) -> tuple[Any, ...]:
        """What a reader acts on; it is equal while nothing but ages and the time changes."""
        return (
            self.answer,
            self.others,
            [i.id for i in self.closed],
            [alert["id"] for alert in self.alerts],
            [(panel.name, panel.severity, self.reason(panel)) for panel in self.panels],
            [(state, words.partition(" (")[0]) for _, state, words in self.works],
            self.reports,
            self.checklists,
        )

    @property
    def unowned(self) -> list[str]:
        """The open incidents that nobody has acknowledged, worst first."""
        return [found.unowned for found in (self.answer, *self.others) if found.unowned]

    @property
    def parts(self) -> tuple[TextBlock, TextBlock]:
        """The answer, and everything below it, for a notebook that has buttons between them."""
        return self.shown("answer"), self.shown("rest", WATCHED)

    def shown(self, part: str = "", note: str = "") -> TextBlock:
        """
        Return Home as plain text, HTML and Markdown.

        Args:
            part: Which part the HTML has, ``answer`` or ``rest``: buttons acknowledge then, not commands. Empty: all.
            note: What is said beside the time, such as how it is kept current.
        """
        signs, groups = formatting.SIGNS, self._groups()
        plain, markdown = list[str](), list[str]()
        for found in (self.answer, *self.others):
            facts = [*found.facts, *([f"{DO_FIRST}: {found.first}"] if found.first else [])]
            plain += [f"{signs[found.verdict]} {found.words}", *(f"  {fact}" for fact in facts)]
            markdown += [
                f"**{signs[found.verdict]} {formatting.in_markdown(found.words)}**",
                *map(formatting.in_markdown, facts),
            ]
        plain += [f"  {signs[verdict]} {state}: {words}" for verdict, state, words in self.works]
        for title, rows in groups:
            plain += ["", title, *(f"  {' '.join(filter(None, (row.words, row.note)))}" for row in rows)]
            markdown += [
                f"### {title}",
                "\n".join(f"- {formatting.in_markdown(' '.join(filter(None, (row.words, row.note))))}" for row in rows),
            ]
        return TextBlock(
            "\n".join(plain),
            "reports/templates/home.html",
            {"home": self, "part": part, "signs": signs, "as_of": "; ".join(filter(None, (self.as_of, note)))},
            "\n\n".join(markdown),
        )

    @property
    def as_of(self) -> str:
        """The app, the moment, how many incidents are open then, and how many alerts to act on belong to none."""
        open_ = {0: "no open incident", 1: "1 open incident"}.get(self.open_count, f"{self.open_count} open incidents")
        alerts = f"{self.alert_count} alert{'s' if self.alert_count > 1 else ''} to act on without an open incident"
        found = [*([open_] if self.open_count or not self.alert_count else []), *([alerts] if self.alert_count else [])]
        return f"{self.workspace.settings.app} as of {formatting.moment(self.view.window.end)}: {', '.join(found)}"

    def _groups(self) -> list[tuple[str, list[Link]]]:
        """Return what is below the answer, for plain text and Markdown."""
        alerts = [Link(f"{severity}: {words}", "") for severity, words in self.other_alerts]
        return [
            *([(OTHER_ALERTS, alerts)] if alerts else []),
            ("Dashboard", [Link(f"{panel.title}: {panel.verdict_text}", "") for panel in self.panels]),
            ("Runbooks by symptom", self.runbooks),
            ("Latest reports", [Link(run.title, "", run.shown) for run in self.reports]),
            ("Checklists", [Link(d.checklist.title, "", d.words) for d in self.checklists]),
        ]

    @property
    def panels(self) -> list[Panel]:
        """The four panels over the last hour."""
        return self.view.panels

    @staticmethod
    def reason(panel: Panel) -> str:
        """Return the first sentence behind a panel's verdict, with its severity if the panel has another one."""
        return "" if panel.verdict == "ok" else next(iter(panel.sentences), "").removeprefix(f"{panel.severity}: ")

    @property
    def works(self) -> list[tuple[str, str, str]]:
        """What trading depends on, where something is broken: the verdict, the state and the words of each."""
        if self.answer.verdict == "ok":
            return []
        found = sorted(impact.things(self.view), key=lambda thing: list(SERVES).index(thing.state))
        return [(SERVES[thing.state], thing.state, thing.words) for thing in found]

    @property
    def other_alerts(self) -> list[tuple[str, str]]:
        """The active alerts which nobody is notified of and no open incident has: severity and sentence of each."""
        return [(a["severity"], f"{a['sentence']}, {self.view.describe_since(a)}") for a in self.alerts]

    @property
    def dashboard(self) -> Link:
        """The live dashboard, or the newest published one."""
        live = self._first(jupyterlab.root(self.workspace.settings) / "dashboard.ipynb")
        return (
            Link("Open the live dashboard", live)
            if live
            else Link("Last published dashboard", self._first(*self.dashboards))
        )

    @property
    def runbooks(self) -> list[Link]:
        """The runbooks, by their symptom."""
        titles = sorted(_titles().items(), key=lambda named: named[0] == OTHER)
        return [Link(title, _runbook(self.workspace, self.address, name)) for name, title in titles]

    @property
    def notebooks(self) -> list[Link]:
        """The other notebooks."""
        return [Link(title, self._notebook(name)) for name, title in NOTEBOOKS.items()]

    def report(self, run: PublishedRun) -> str:
        """Return where a report can be opened."""
        return self._first(*run.pages)

    def checklist(self) -> str:
        """Return where checklists can be opened."""
        return self._notebook("checklist")

    @property
    def alerts_page(self) -> str:
        """Where the history of alerts can be opened."""
        return self._notebook("alerts")

    def past(self, incident: Incident) -> Link:
        """Return the link of a closed incident."""
        folder = lifecycle.of(self.workspace).folder(incident.id)
        start, resolved_us = clock.instant(incident.since_us), incident.times["resolved"].at_us
        end = f"–{_clock(clock.instant(resolved_us), start)}" if resolved_us is not None else ""
        return Link(
            incident.headline,
            self._first(folder / incident_page.NAME, folder / "postmortem.html"),
            f"{incident.id} · {incident.status} · peak {incident.peak} · open {_clock(start, start)}{end}",
        )

    def command(self, *words: str) -> str:
        """Return a command of `ops` for this app, as it is typed."""
        return str(command(*words, where=self.workspace.settings.where))

    def _notebook(self, name: str) -> str:
        project = settings_module.project()
        return self._first(project / "notebooks" / f"{name}.ipynb") if project else ""

    def _first(self, *places: Path) -> str:
        return first(self.address, places)


def first(address: Address, places: Iterable[Path]) -> str:
    """Return the address of the first file that exists and can be opened; empty if there is none."""
    return next((found for place in places if place.exists() and (found := address(place))), "")


def unreadable(why: str) -> TextBlock:
    """Return what is shown while Home cannot be made."""
    return answer_block("unknown", "The state is unknown: Home could not be read", [why])


def home_of(workspace: Workspace, address: Address) -> Home:
    """
    Return Home as of now.

    Args:
        workspace: The app.
        address: Returns where a file can be opened; empty where it cannot.
    """
    view = status.status_of(workspace)
    found = lifecycle.of(workspace).recent(CLOSED_INCIDENTS)
    open_ = sorted(
        (i for i in found if i.status not in CLOSED), key=lambda i: (-_rank(i.current), -SEVERITIES.index(i.severity))
    )
    mine = {name for i in open_ for name in i.alerts}
    alerts = [a for a in view.alerts if a["state"] != "pending" and not a["inhibited_by"] and a["id"] not in mine]
    runs = ledger.runs(workspace.store)
    reports = published_runs.newest(runs, workspace.settings.app)[:REPORTS]
    # Two sources of one problem are one row, that of the worse.
    worst = {(a["rule"], a["subject"]): a for a in reversed(alerts) if a["severity"] in SENT}
    acting = list(worst.values())
    causes = diagnose(view).each if open_ or acting else []
    # Where both are as severe, an incident comes first.
    answers = [(_rank(i.current), _of_incident(workspace, view, address, i, causes)) for i in open_]
    answers += [(_rank(a["severity"]), _of_alert(workspace, view, address, a, causes)) for a in acting]
    answers.sort(key=lambda ranked: -ranked[0])
    first, *others = [answer for _, answer in answers] or [_all_quiet(view, reports)]
    return Home(
        workspace,
        view,
        address,
        first,
        others,
        len(open_),
        len(acting),
        [i for i in found if i.status in CLOSED],
        [a for a in alerts if a["severity"] not in SENT],
        reports,
        published_runs.dashboards(runs, workspace.settings.app),
        due_checklists.due(workspace, view.window.end),
    )


def _rank(severity: str) -> int:
    return SEVERITIES.index(severity) if severity in SEVERITIES else -1


def _of_incident(
    workspace: Workspace, view: Status, address: Address, incident: Incident, causes: list[Diagnosis]
) -> Answer:
    name, now = incident.id, view.window.end
    folder = lifecycle.of(workspace).folder(name)
    runs = incident.of_kind("runbook")
    copies = [e.body["notebook"] for e in runs]
    titles = _titles()
    named = runs[-1].body["runbook"] if runs else incident.runbook
    book = named if named in titles else OTHER
    title = titles.get(book, book)
    opened = [place for n in reversed(copies) for place in (folder / str(n), (folder / str(n)).with_suffix(".html"))]
    runbook = first(address, opened)
    if runbook:
        verb = "Continue" if runbook.endswith(".ipynb") else "Read"
        runbooks = [Link(f"{verb} the runbook: {title}", runbook)]
    else:
        runbooks = [_open_runbook(workspace, address, book, title)]
    page = first(address, (folder / incident_page.NAME, folder / "postmortem.html"))
    severity = f"severity {incident.current}" if incident.current != "none" else "no alert is active any more"
    diagnosed = incident.diagnosed
    worst = next((a for a in view.alerts if a["id"] in incident.alerts and a["state"] != "pending"), None)
    cause = _cause(causes, worst) if worst else None
    fault = [_fault(diagnosed.body)] if diagnosed else [_fault(cause.as_json())] if cause else []
    advice = ""
    if not incident.owner:
        advice = f"Acknowledge: {command('ack', name, '--by', 'NAME', where=workspace.settings.where)}"
    elif not copies:
        advice = (
            f"Open a copy of the runbook for it: "
            f"{command('runbook', 'open', book, '--incident', name, where=workspace.settings.where)}"
        )
    return Answer(
        incident.current if incident.current != "none" else "warning",
        incident.headline,
        [
            f"incident {name}, {incident.status}",
            severity,
            *fault,
            f"began {_when(clock.instant(incident.since_us), now)}",
            f"owner: {incident.owner}" if incident.owner else "not acknowledged",
        ],
        [*runbooks, Link(f"Incident {name}", page)],
        _first_action(workspace, causes, worst) if worst else "",
        advice,
        "" if incident.owner else name,
    )


def _fault(diagnosed: Mapping[str, Any]) -> str:
    """Return whose fault a diagnosis says that it is, and how confident it is."""
    sure = f", confidence {diagnosed['confidence'] * 100:.0f} %" if diagnosed.get("confidence") else ""
    return f"fault: {whose(diagnosed['cause'], diagnosed.get('subject'))}{sure}"


def _cause(causes: list[Diagnosis], alert: Mapping[str, Any], least: float = effects.LIKELY) -> Diagnosis | None:
    """Return the cause of an active alert; None if no diagnosis of now is confident enough."""
    return effects.cause_of_alert(causes, alert["rule"], alert["subject"], alert["source"], least)


def _first_action(workspace: Workspace, causes: list[Diagnosis], alert: Mapping[str, Any]) -> str:
    """Return what to do first about an active alert, as its notification says it."""
    cause = _cause(causes, alert, effects.SURE)
    return str(effects.first_action(cause, alert["rule"], alert["subject"], workspace.rules))


def _of_alert(
    workspace: Workspace, view: Status, address: Address, alert: dict[str, Any], causes: list[Diagnosis]
) -> Answer:
    """Return the row of an active alert that people are notified of and that belongs to no open incident."""
    cause, incident, where = _cause(causes, alert), alert["incident"], workspace.settings.where
    sure = _cause(causes, alert, effects.SURE)
    fired = f"{alert['sentence']} when it fired" if alert["sentence"] else alert["rule"]
    if incident:
        state = _closed(workspace, incident, view.window.end)
        advice = f"Reopen the incident: {command('incident', 'reopen', incident, '--by', 'NAME', where=where)}"
    else:
        state = "no incident yet"
        advice = f"Acknowledge: {command('ack', alert['id'], '--by', 'NAME', where=where)}"
    book = alert["runbook"]
    return Answer(
        alert["severity"] if alert["state"] == "firing" else "unknown",
        f"Active alert: {sure.headline.rstrip('.') if sure else fired}",
        [
            *([fired] if sure else []),
            state,
            *([_fault(cause.as_json())] if cause else []),
            view.describe_since(alert),
        ],
        [_open_runbook(workspace, address, book, _titles().get(book, book))] if book else [],
        _first_action(workspace, causes, alert),
        advice,
    )


def _closed(workspace: Workspace, name: str, now: datetime) -> str:
    """Return when and by whom the incident of an alert that still fires was closed."""
    incident = lifecycle.of(workspace).read(name)
    ends = incident.of_kind(incident.status)
    if not ends:
        return f"incident {name}, {incident.status}"
    by = f" by {ends[-1].by}" if ends[-1].by else ""
    when = _clock(clock.instant(ends[-1].at_us), now)
    return f"its incident {name} was {incident.status} at {when}{by}; the alert still fires"


def _all_quiet(view: Status, reports: list[PublishedRun]) -> Answer:
    """Return the first row where no incident is open and no alert needs action: how everything was."""
    newest = next((run for run in reports if run.verdict), None)
    last = f"last report: {newest.title}, {newest.verdict}" if newest else "no report yet"
    if view.verdict == "unknown" and market_calendar.open_since(view.window.end) is None:
        verdict = newest.verdict if newest and newest.verdict in VERDICTS else "unknown"
        return Answer(verdict, "No open incident; the market is closed", [last], [])
    words = {
        "ok": "No open incident",
        "unknown": "No open incident, but the state is unknown: data is missing",
    }.get(view.verdict, f"No open incident and no alert to act on; the last hour was {view.verdict}")
    return Answer(view.verdict, words, [last], [])


def _when(at: datetime, now: datetime) -> str:
    """Return a time for people: New York's, with its day unless it is today's, and how long ago it was."""
    minutes = max(0.0, (now - at).total_seconds() // 60)
    return f"{_clock(at, now)} New York, {formatting.duration(minutes * 60) if minutes else 'less than 1 min'} ago"


def _clock(at: datetime, now: datetime) -> str:
    """Return a time in New York, with its day unless it is that of `now`."""
    local, today = at.astimezone(formatting.NEW_YORK), now.astimezone(formatting.NEW_YORK).date()
    return f"{local:%H:%M}" if local.date() == today else f"{local:%Y-%m-%d %H:%M}"


def _titles() -> dict[str, str]:
    """Return the title of each runbook by its name; empty where the package was installed without them."""
    return catalog.titles() if settings_module.project() else {}


def _open_runbook(workspace: Workspace, address: Address, name: str, title: str) -> Link:
    words = command("runbook", "show", name, where=workspace.settings.where)
    return Link(f"Open the runbook: {title}", _runbook(workspace, address, name), words)


def _runbook(workspace: Workspace, address: Address, name: str) -> str:
    """Return where a runbook can be opened: as a notebook, else on the page of all runbooks."""
    page = first(address, (workspace.settings.home / RUNBOOKS_PAGE,))
    project = settings_module.project()
    notebook = first(address, (project / "runbooks" / f"{name}.ipynb",)) if project else ""
    return notebook or (f"{page}#{name}" if page else "")

"""Define every command of ``ops``, its options and its help."""

import argparse
import re
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from opslib import __version__
from opslib.cli import topics
from opslib.foundation import formatting, time_parsing
from opslib.foundation.errors import UsageError

DESCRIPTION = "Operate an options-trading app: monitor it, respond to incidents, report."
GROUPS = ("Get started", "Watch", "Respond", "Report", "Verify", "Administer")
BY = "your name, as it is recorded (default: the user who is logged in)"


class _Parser(argparse.ArgumentParser):
    """An argparse parser with our exit code for wrong usage, suggestions for typing errors, and no abbreviations."""

    def __init__(self, **how: Any):
        super().__init__(allow_abbrev=False, **how)

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"argument ([^:]*): invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if wrong:
            argument, found, choices = wrong.groups()
            known = re.findall(r"[\w-]+", choices)
            near = formatting.nearest(found, known)
            expected = "" if near or len(known) > 12 else f" Expected one of: {', '.join(known)}."
            kind = "command" if argument == "COMMAND" else f"value of {argument}"
            raise UsageError(f"{found!r} is not a valid {kind}.{near}{expected} See {self.prog} --help.")
        raise UsageError(f"{message}. See {self.prog} --help.")


def _commands(top: argparse.ArgumentParser) -> "argparse._SubParsersAction[argparse.ArgumentParser]":
    """Return the action of a parser that holds its commands."""
    (found,) = (action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    return found


class _Top(_Parser):
    """The parser of ``ops`` itself: its help lists the commands in groups, in the description."""

    def format_help(self) -> str:
        commands = _commands(self)
        listed, commands.help = commands.help, argparse.SUPPRESS
        try:
            return super().format_help()
        finally:
            commands.help = listed

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            command = _commands(self).choices.get(options.command, self)
            near = formatting.nearest(unknown[0].partition("=")[0], command._option_string_actions)
            raise UsageError(f"{unknown[0]!r} is not expected here.{near} See {command.prog} --help.")
        return options


Run = Callable[[argparse.Namespace], int]


def parser(runs: Mapping[str, Run]) -> argparse.ArgumentParser:
    """
    Build the parser of every command of CONTRACT.md with its options.

    Args:
        runs: The function that runs each command, by the command's name. Parsed options hold it as `run`, and the name
            as `command`.
    """
    shared = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    common = shared.add_argument_group("options of every command")
    common.add_argument(
        "--home", metavar="DIR", help="home directory: settings, database, outputs (default: OPS_HOME, else outputs/)"
    )
    common.add_argument(
        "--app",
        metavar="NAME",
        help="name of the app (default: the one in settings.toml, else 'desk'; 'demo' always exists). Only import, "
        "serve, collect and run accept a new name",
    )
    common.add_argument(
        "--as-of",
        metavar="TIME",
        help="show the state at this time, such as 2026-03-10T11:25, in New York unless it has an offset (default: "
        "now)",
    )
    common.add_argument(
        "--known-at",
        metavar="TIME",
        help="ignore data that was stored after this time. Use the same time as --as-of to see what was known then "
        "(default: use all data)",
    )
    common.add_argument("-o", dest="output", choices=("text", "json"), help="output format (default: text)")
    top = _Top(
        prog="ops",
        usage="ops COMMAND [OPTIONS]",
        parents=[shared],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Help topics (ops help TOPIC):\n{_wrapped(topics.names())}\n\nexample: ops demo",
    )
    top.set_defaults(run=runs["help"])
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", prog="ops", parser_class=_Parser)
    groups: dict[str, list[str]] = {name: [] for name in GROUPS}

    def command(group: str, name: str, summary: str, example: str, details: str = "") -> argparse.ArgumentParser:
        found = commands.add_parser(
            name,
            parents=[shared],
            help=summary,
            description=textwrap.fill(f"{summary[0].upper()}{summary[1:]}. {details}", 78),
            epilog=f"example: {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        found.set_defaults(run=runs[name])
        groups[group].append(f"  {name:<11} {summary}")
        return found

    _get_started(command)
    _watch(command)
    _respond(command)
    _report(command)
    _verify(command)
    _administer(command)
    top.description = "\n\n".join([DESCRIPTION, *("\n".join([name, *lines]) for name, lines in groups.items())])
    return top


Add = Callable[..., argparse.ArgumentParser]


def _get_started(command: Add) -> None:
    demo = command(
        "Get started",
        "demo",
        "simulate a trading day with an incident, offline",
        "ops demo --seed 7",
        "It posts the day to the real receiver, makes the daily report, a runbook and a postmortem, and compares every "
        "figure with the simulated events. It needs no network and no account.",
    )
    demo.add_argument(
        "--seed", type=int, default=None, metavar="N", help="simulate another day: other times and figures (default: 1)"
    )
    command(
        "Get started",
        "doctor",
        "check that everything configured can be reached",
        "ops doctor",
        "The exit code is the worst result: 0 ok, 1 warning, 2 critical, 3 unknown.",
    )
    for name, summary, details, example in (
        (
            "lab",
            "open JupyterLab with runbooks, reports and dashboard",
            "It opens on Home: what is broken now, who has it and what to open first. It uses separate JupyterLab "
            "settings and does not change yours.",
            "ops lab",
        ),
        (
            "dashboard",
            "open the live dashboard in a browser",
            "It is read-only and shows no code.",
            "ops dashboard --port 8866",
        ),
    ):
        started = command("Get started", name, summary, example, details)
        started.add_argument(
            "--port", type=int, default=0, metavar="PORT", help="port on this machine (default: any free port)"
        )
        started.add_argument("--no-browser", action="store_true", help="print the address; do not open a browser")
    shown = command("Get started", "help", "show help for a command or a topic", "ops help glossary")
    shown.add_argument("topic", nargs="?", metavar="COMMAND|TOPIC")


def _watch(command: Add) -> None:
    collect = command(
        "Watch",
        "collect",
        "probe the app and its providers, evaluate alerts, notify",
        "ops collect --every 5s",
        "It runs until stopped. Several may run at once; one of them evaluates and notifies.",
    )
    collect.add_argument(
        "--every",
        default="5s",
        metavar="SPAN",
        help="interval between liveness probes; other probes have intervals of their own (default: 5s)",
    )
    serve = command(
        "Watch",
        "serve",
        "receive snapshots from the app's pages; expose metrics",
        "ops serve --port 8321",
        "It also accepts log drains and the alerts of other monitoring systems, and serves Prometheus metrics. It runs "
        "until stopped.",
    )
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    serve.add_argument("--port", type=int, default=8321, help="port to listen on (default: 8321)")
    status = command(
        "Watch",
        "status",
        "show the four panels and the active alerts",
        "ops status --as-of 2026-03-10T11:30 --window 1h",
        "The exit code is the verdict: 0 ok, 1 warning, 2 critical, 3 unknown.",
    )
    status.add_argument("--window", default="1h", metavar="SPAN", help="length of the window (default: 1h)")
    alerts = command(
        "Watch",
        "alerts",
        "list the alerts that fired",
        "ops alerts --from 2026-03-10T09:30 --to 2026-03-10T16:00 --replay",
        "It reads what the collector recorded.",
    )
    alerts.add_argument(
        "--from", dest="start", metavar="TIME", help="start of the window (default: seven days before its end)"
    )
    alerts.add_argument("--to", dest="end", metavar="TIME", help="end of the window (default: --as-of, else now)")
    alerts.add_argument(
        "--replay", action="store_true", help="evaluate the rules again, with the data and rules available now"
    )
    greeks = command(
        "Watch",
        "greeks",
        "check the Greeks of one option chain",
        "ops greeks chain.json --as-of 2026-03-10T11:25",
        "The exit code is the verdict: 0 ok, 1 warning, 2 critical, 3 unknown.",
    )
    greeks.add_argument(
        "what",
        metavar="FILE|SYMBOL",
        help="a chain from Massive, Tradier, Schwab, Cboe or Yahoo, CSV or Parquet; or a symbol, which is fetched now "
        "(with --as-of: the last chain stored by then)",
    )
    greeks.add_argument(
        "--from",
        dest="provider",
        choices=("massive", "tradier"),
        default="",
        help="provider of a symbol's chain (default: massive, compared with tradier where both are configured)",
    )
    pnl = command(
        "Watch",
        "pnl",
        "compute results and costs of fills, against a backtest",
        "ops pnl fills.csv --backtest backtest.csv --costs real",
        "The exit code is the verdict: 0 ok, 1 warning, 2 critical, 3 unknown.",
    )
    pnl.add_argument(
        "fills",
        nargs="?",
        type=Path,
        metavar="FILLS",
        help="a broker's export, the app's trades as JSON, or plain CSV (default: the fills that were imported)",
    )
    pnl.add_argument("--backtest", type=Path, metavar="FILE", help="the backtest's trades, in any of the same formats")
    pnl.add_argument(
        "--costs",
        choices=("real", "guide", "app"),
        default="real",
        help="cost model. real: as paid, or where unknown $0.65 per contract and side plus half the spread; guide: the "
        "example costs of the operations guide; app: the app's calculator (default: real)",
    )


def _respond(command: Add) -> None:
    ack = command(
        "Respond",
        "ack",
        "acknowledge an alert or an incident",
        "ops ack 2026-03-10-2 --by Ann",
        "You are notified again only if it gets worse or is resolved. Escalation to the next role stops.",
    )
    ack.add_argument("id", metavar="ID", help="ID of the alert or incident, as in its message and in ops status")
    ack.add_argument("--by", metavar="NAME", default=None, help=BY)
    ack.add_argument("--note", default="", metavar="TEXT", help="a note for the record")
    diagnose = command(
        "Respond",
        "diagnose",
        "name the likely cause, with evidence for and against",
        "ops diagnose --as-of 2026-03-10T11:30 -o json",
        "Runbooks give the same answer. The exit code is 3 if the cause could not be determined.",
    )
    diagnose.add_argument(
        "--window",
        default="1h",
        metavar="SPAN",
        help="length of the window of the figures (default: 1h); rules use their own windows",
    )
    incident = command(
        "Respond",
        "incident",
        "show incidents; record what was done",
        'ops incident note 2026-03-10-1 "the vendor called back" --by Ann',
    )
    incident.add_argument(
        "what",
        choices=("list", "show", "open", "note", "mitigate", "resolve", "merge", "dismiss", "reopen", "handover"),
        nargs="?",
        default="list",
        help="what to do (default: list)",
    )
    incident.add_argument(
        "words",
        nargs="*",
        metavar="ID|TEXT",
        help="first the ID of the incident or of one of its alerts (default: the only open incident), then the text; "
        "open: only a title",
    )
    incident.add_argument("--by", metavar="NAME", default=None, help=BY)
    incident.add_argument("--at", metavar="TIME", default=None, help="when it happened (default: now)")
    incident.add_argument("--to", metavar="NAME", default=None, help="handover: the new owner")
    incident.add_argument("--into", metavar="ID", default=None, help="merge: the incident that remains")
    incident.add_argument(
        "--reason", choices=("false alarm", "duplicate"), default=None, help="dismiss: why it is not an incident"
    )
    incident.add_argument("--alert", metavar="ID", default=None, help="open: the alert to open it for")
    incident.add_argument(
        "--runbook", metavar="NAME", default=None, help="open: its runbook (default: incident, the general one)"
    )
    incident.add_argument("--subject", default="app", metavar="NAME", help="open: what it affects (default: app)")
    incident.add_argument(
        "--severity",
        choices=("warning", "notify", "critical", "escalate"),
        default="notify",
        help="open: its severity (default: notify)",
    )
    incident.add_argument(
        "--html", action="store_true", help="show: write its page, incident.html in its folder, and print the path"
    )
    runbook = command(
        "Respond",
        "runbook",
        "list, read, open or resume a runbook",
        "ops runbook open massive_down --by Ann",
    )
    runbook.add_argument(
        "what", choices=("list", "show", "open", "resume"), nargs="?", default="list", help="what to do (default: list)"
    )
    runbook.add_argument("name", nargs="?", metavar="NAME", help="name of the runbook, as ops runbook list shows it")
    runbook.add_argument(
        "--incident",
        metavar="ID",
        default=None,
        help="open it for this incident (default: the incident of the alert that names the runbook, else a new one)",
    )
    runbook.add_argument("--by", metavar="NAME", default=None, help=BY)
    runbook.add_argument(
        "--html",
        metavar="FILE",
        type=Path,
        default=None,
        help="show: write all runbooks to one HTML page, to print and keep for when Jupyter is down",
    )
    checklist = command(
        "Respond",
        "checklist",
        "run a checklist",
        "ops checklist morning --by Ann --sign",
        "Items that can be checked are checked; the others are asked if the terminal is interactive. The exit code is "
        "the verdict.",
    )
    checklist.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="morning, hourly, pre-deploy, staging, production, post-deploy-1h, post-deploy-24h, post-deploy-1w or "
        "monitor-health (default: list them)",
    )
    checklist.add_argument("--by", metavar="NAME", default=None, help=BY)
    checklist.add_argument("--sign", action="store_true", help="sign it; a signed checklist does not change any more")
    silence = command(
        "Respond",
        "silence",
        "silence alerts for a while; list or end silences",
        'ops silence add --rule availability --subject massive --for 2h --reason "planned maintenance"',
    )
    silence.add_argument(
        "what", choices=("add", "list", "end"), nargs="?", default="list", help="what to do (default: list)"
    )
    silence.add_argument("id", metavar="ID", nargs="?", help="end: ID of the silence")
    for name in ("rule", "subject", "source"):
        silence.add_argument(f"--{name}", default="", metavar="NAME", help=f"only alerts of this {name} (default: any)")
    silence.add_argument("--for", dest="span", metavar="SPAN", help="how long, such as 2h")
    silence.add_argument("--reason", default="", metavar="TEXT", help="why; required")
    silence.add_argument("--by", metavar="NAME", default=None, help=BY)
    notify = command(
        "Respond",
        "notify",
        "list notifications; send test messages",
        "ops notify --test 'Tech Lead'",
    )
    notify.add_argument(
        "--test",
        nargs="?",
        const="",
        default=None,
        metavar="CHANNEL|ROLE",
        help="send a test message to this channel or role (default: to every channel)",
    )
    mark = command(
        "Respond",
        "mark",
        "put a marker on every chart and timeline",
        'ops mark deploy "v1.4.0" --at 2026-03-10T11:05',
    )
    mark.add_argument("kind", choices=("deploy", "restart", "note"), help="kind of marker")
    mark.add_argument("words", nargs="+", metavar="TEXT", help="text of the marker")
    mark.add_argument("--by", metavar="NAME", default=None, help=BY)
    mark.add_argument("--at", metavar="TIME", default=None, help="when it happened (default: now)")


def _report(command: Add) -> None:
    report = command(
        "Report",
        "report",
        "make a daily, weekly or longer report",
        "ops report daily --day 2026-03-10",
        "It executes the report's notebook and publishes it as notebook, HTML, Markdown and JSON.",
    )
    report.add_argument(
        "name",
        choices=("daily", "weekly", "monthly", "quarterly", "annual", "success"),
        help="which report; success: the operations guide's success metrics over seven days",
    )
    report.add_argument(
        "--day",
        metavar="DAY",
        help="the trading day, or a day of the period; success: the last of its seven days (default: the last day)",
    )
    report.add_argument(
        "--period", metavar="PERIOD", help="2026-W11, 2026-03, 2026-Q1 or 2026 (default: the last complete period)"
    )
    report.add_argument(
        "--partial", action="store_true", help="make it before the period has ended, under a different name"
    )
    report.add_argument(
        "--workers",
        type=int,
        default=None,
        metavar="N",
        help="for a range such as --day 2026-01-02..2026-03-31: reports made at the same time (default: 2)",
    )
    report.add_argument(
        "--scheduler", metavar="URL", default=None, help="for a range: use a Dask cluster, such as tcp://HOST:8786"
    )
    report.add_argument("--timeout", type=float, default=None, metavar="S", help="seconds for the whole notebook")
    postmortem = command(
        "Report",
        "postmortem",
        "draft or check the postmortem of an incident",
        "ops postmortem 2026-03-10-1 --check",
        "A draft keeps what people wrote and updates the facts from the record.",
    )
    postmortem.add_argument("id", nargs="?", metavar="ID", help="ID of the incident (default: the only open incident)")
    postmortem.add_argument("--check", action="store_true", help="only list what is missing before it can be reviewed")
    postmortem.add_argument(
        "--freeze",
        action="store_true",
        help="save the incident's state, without secrets and names, as a regression case for ops drill. The time is "
        "--as-of, else that of the last check of its runbook before the incident was mitigated",
    )
    postmortem.add_argument(
        "--cause",
        metavar="CAUSE",
        default="",
        help="with --freeze: the cause that people agreed on (default: the cause that was diagnosed)",
    )
    postmortem.add_argument(
        "--status", metavar="STATUS", default=None, help="set its status: in-review, reviewed or closed"
    )
    postmortem.add_argument("--by", metavar="NAME", default=None, help=BY)
    schedule = command(
        "Report",
        "schedule",
        "run reports and checklists when they are due",
        "ops schedule run",
        "schedule.toml says what is due and when.",
    )
    schedule.add_argument(
        "what",
        choices=("run", "list", "try", "install"),
        help="run: run due jobs until stopped; list: show what is due next; try: run each job once now, without "
        "recording checklists; install: add it to systemd or cron",
    )
    schedule.add_argument("how", nargs="?", choices=("systemd", "cron"), help="install: systemd or cron")
    schedule.add_argument("--once", action="store_true", help="run: run what is due now, then exit")
    schedule.add_argument("--workers", type=int, default=2, metavar="N", help="jobs run at the same time (default: 2)")
    run = command(
        "Report",
        "run",
        "execute any notebook and record how it ended",
        "ops run notebooks/dashboard.ipynb -p as_of=2026-03-10T11:25",
        "The run fails if a cell fails or a parameter is unknown.",
    )
    run.add_argument("notebook", type=Path, help="path of the notebook")
    run.add_argument(
        "-p",
        dest="given",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a parameter; an unknown name or a value of the wrong type is rejected",
    )
    run.add_argument("--timeout", type=float, default=None, metavar="S", help="seconds for the whole notebook")
    command("Report", "runs", "list every notebook run and how it ended", "ops runs -o json")
    feedback = command(
        "Report",
        "feedback",
        "record what monitoring missed, or that an alert was noise",
        'ops feedback missed-data "no Greeks for TSLA from 10:05" --by Ann',
        "The quarterly report shows it.",
    )
    feedback.add_argument("kind", choices=("missed-data", "noise", "useful"), help="kind of feedback")
    feedback.add_argument("words", nargs="*", metavar="TEXT", help="what happened")
    feedback.add_argument("--alert", metavar="ID", default="", help="ID of the alert, as ops alerts shows it")
    feedback.add_argument("--by", metavar="NAME", default=None, help=BY)
    feedback.add_argument("--at", metavar="TIME", default=None, help="when it happened (default: now)")


def _verify(command: Add) -> None:
    verify = command(
        "Verify",
        "verify",
        "recompute a report, incident or postmortem from evidence",
        "ops verify outputs/desk/incidents/2026-03-10-1",
        "It names everything that differs. The exit code is 0 if everything was reproduced, 2 if something differs, "
        "3 if nothing could be verified.",
    )
    verify.add_argument(
        "path",
        metavar="PATH|ID",
        help="an incident (its ID, its folder or a copy of that), the record of a checklist "
        "(such as morning-2026-03-10), or a published report",
    )
    drill = command(
        "Verify",
        "drill",
        "test the runbooks against simulated faults",
        "ops drill massive_5xx --severity 30 --seed 7",
        "It injects faults into a simulated world, runs the runbook that the first alert names, and shows how often "
        "the right cause was found.",
    )
    drill.add_argument(
        "faults",
        nargs="*",
        metavar="FAULT",
        help="faults, pairs, controls or regression cases to run (default: all); with --mutants: runbooks",
    )
    drill.add_argument(
        "--severity",
        type=float,
        action="append",
        metavar="PERCENT",
        help="percentage of responses that the fault affects; may be repeated (default: 5, 30 and 100)",
    )
    drill.add_argument(
        "--seed",
        type=int,
        action="append",
        metavar="N",
        help="seed of the simulation; may be repeated (default: three seeds derived from the date, and printed)",
    )
    drill.add_argument(
        "--record",
        action="store_true",
        help="run everything, keep the rows as the scoreboard of notebooks/drills.ipynb, and update README.md",
    )
    drill.add_argument(
        "--mutants",
        action="store_true",
        help="mutation testing: change one step, check or limit of a runbook at a time; do the scenarios catch it?",
    )
    drill.add_argument(
        "--live",
        metavar="FAULT",
        default="",
        help="start a game day: a running simulation with JupyterLab, in which this fault is injected (any: at random)",
    )
    drill.add_argument("--secret", action="store_true", help="with --live: do not show which fault it is")
    drill.add_argument("--by", metavar="NAME", default="", help="with --live: name of the player")
    drill.add_argument(
        "--workers", type=int, default=4, metavar="N", help="scenarios run at the same time (default: 4)"
    )


def _administer(command: Add) -> None:
    imported = command(
        "Administer",
        "import",
        "import snapshots, fills, backtests, chains or logs",
        "ops import snapshots.jsonl.gz fills.csv chain.json app.log",
        "Importing a file again changes nothing.",
    )
    imported.add_argument("paths", nargs="*", metavar="PATH", type=Path, help="files to import; .gz is unpacked")
    imported.add_argument(
        "--kind",
        choices=("snapshots", "fills", "backtest", "chain", "log"),
        default=None,
        help="what the files contain (default: detected from their content)",
    )
    imported.add_argument(
        "--known-at-ts",
        action="store_true",
        help="use the time of each row, not that of the import, as the time when it was stored, "
        "so that --known-at works",
    )
    imported.add_argument("--rejects", action="store_true", help="list every rejected row with its reason")
    export = command(
        "Administer",
        "export",
        "export stored snapshots as JSON lines",
        "ops export snapshots --day 2026-03-10",
        "It returns exactly what was posted or imported.",
    )
    export.add_argument("what", choices=("snapshots",), help="what to export")
    export.add_argument("--from", dest="start", metavar="TIME", help="start of the window (excluded)")
    export.add_argument("--to", dest="end", metavar="TIME", help="end of the window (included)")
    export.add_argument("--day", metavar="DAY", help="one day, midnight to midnight in New York")
    rules = command(
        "Administer",
        "rules",
        "show, check, test, export or backtest the alert rules",
        "ops rules check",
    )
    rules.add_argument(
        "what",
        nargs="?",
        choices=("show", "check", "test", "export", "backtest"),
        default="show",
        help="what to do (default: show)",
    )
    rules.add_argument(
        "argument",
        nargs="?",
        metavar="FILE|prometheus",
        help="test: a file in promtool's format; export: prometheus",
    )
    rules.add_argument("--from", dest="start", metavar="TIME", help="backtest: start of the history")
    rules.add_argument("--to", dest="end", metavar="TIME", help="backtest: end of the history (default: now)")
    rules.add_argument(
        "--troubles",
        type=Path,
        metavar="FILE",
        help="backtest: known incidents, a JSON list of objects with rule, subject, from and to",
    )
    rules.add_argument(
        "--candidate", type=Path, metavar="FILE", help="backtest: a rules.toml to compare with the rules in effect"
    )
    rules.add_argument(
        "--days",
        type=int,
        default=100,
        metavar="N",
        help="backtest: days to resample from the history, with incidents added (default: 100; 0: none)",
    )
    rules.add_argument(
        "--seed",
        type=int,
        default=None,
        metavar="N",
        help="backtest: seed of the resampled days (default: random, and printed)",
    )
    completion = command(
        "Administer",
        "completion",
        "print a completion script for bash, zsh or fish",
        "ops completion bash",
        "See ops help completion for where to put it.",
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="your shell")


def _wrapped(names: list[str]) -> str:
    return textwrap.fill(", ".join(names), 78, initial_indent="  ", subsequent_indent="  ")


def help_text(runs: Mapping[str, Run], topic: str | None) -> str:
    """
    Return the help of one command, or of all commands.

    Raises:
        UsageError: There is no such command.
    """
    top = parser(runs)
    commands = _commands(top)
    if topic is not None and topic not in commands.choices:
        known = [*commands.choices, *topics.names()]
        raise UsageError(f"there is no help on {topic!r}.{formatting.nearest(topic, known)} See ops help.")
    return (commands.choices[topic] if topic else top).format_help()


def resolve_times(options: argparse.Namespace) -> list[str]:
    """
    Replace ``--as-of`` and ``--known-at`` by instants in UTC.

    A day without a time means its close; a sentence that says so is returned.

    Raises:
        UsageError: One of them is not a time.
    """
    sentences = []
    for name in ("as_of", "known_at"):
        if given := getattr(options, name):
            setattr(options, name, formatting.iso(time_parsing.parse(given, "close")))
            sentences += [f"--{name.replace('_', '-')} {words}." for words in [time_parsing.close_of(given)] if words]
    return sentences

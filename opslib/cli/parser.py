"""Define every command, its options and its help."""

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from opslib import __version__
from opslib.foundation import formatting, time_parsing
from opslib.foundation.errors import UsageError


class _Parser(argparse.ArgumentParser):
    """argparse, with our exit code for wrong usage, the nearest command named, and no option abbreviated."""

    def __init__(self, **how: Any):
        super().__init__(allow_abbrev=False, **how)

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        near = formatting.nearest(wrong[1], re.findall(r"[\w-]+", wrong[2])) if wrong else ""
        raise UsageError(f"{message}.{near} See {self.prog} --help.")


Run = Callable[[argparse.Namespace], int]


def parser(runs: Mapping[str, Run]) -> argparse.ArgumentParser:
    """
    Make the parser of every command of CONTRACT.md with its options.

    Args:
        runs: What does each command, by its name; it is `run` of the options, and `command` is the name.
    """
    common = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--home", metavar="DIR", help="the desk's folder (else OPS_HOME, else the project's outputs/)")
    common.add_argument(
        "--app",
        metavar="NAME",
        help="whose figures (default: the only app configured, else desk; demo needs nothing; a new name "
        "begins with import, serve, collect or run)",
    )
    common.add_argument(
        "--as-of", metavar="TIME", help="everything as of then; ISO 8601, without an offset New York (default: now)"
    )
    common.add_argument(
        "--known-at", metavar="TIME", help="only what had come into the store by then (default: all that is known)"
    )
    common.add_argument("-o", dest="output", choices=("text", "json"), help="how results are written (default: text)")
    top = _Parser(
        prog="ops",
        parents=[common],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="An operations notebook suite for an options-trading app.",
        epilog="example: ops demo",
    )
    top.set_defaults(run=runs["help"])
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    def command(name: str, words: str, example: str) -> argparse.ArgumentParser:
        found = commands.add_parser(
            name,
            parents=[common],
            help=words,
            description=words[0].upper() + words[1:] + ".",
            epilog=f"example: {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        found.set_defaults(run=runs[name])
        return found

    asked = command("help", "show this help, or that of one command", "ops help status")
    asked.add_argument("topic", nargs="?", choices=commands.choices, metavar="COMMAND")
    demo = command(
        "demo", "live a trading day with an incident, offline, from the posts to the report", "ops demo --seed 7"
    )
    demo.add_argument(
        "--seed", type=int, default=None, metavar="N", help="another day: other times, other figures (default: 1)"
    )
    found = command(
        "import",
        "read files of snapshots, fills, backtests, option chains or logs into the store; reading one again "
        "changes nothing",
        "ops import snapshots.jsonl.gz fills.csv chain.json app.log",
    )
    found.add_argument("paths", nargs="*", metavar="PATH", type=Path)
    found.add_argument(
        "--kind",
        choices=("snapshots", "fills", "backtest", "chain", "log"),
        default=None,
        help="what the files hold (default: by their content)",
    )
    found.add_argument(
        "--known-at-ts", action="store_true", help="take each row's own time for when it was known; for replays"
    )
    found.add_argument("--rejects", action="store_true", help="show what was ever refused, and why")
    export = command(
        "export",
        "give back exactly what was posted or imported, as JSON lines",
        "ops export snapshots --day 2025-11-18",
    )
    export.add_argument("what", choices=("snapshots",))
    export.add_argument("--from", dest="start", metavar="TIME", help="after this instant")
    export.add_argument("--to", dest="end", metavar="TIME", help="up to and at this instant")
    export.add_argument("--day", metavar="DAY", help="one day, midnight to midnight in New York")
    serve = command("serve", "receive what the app's pages post, and expose the figures", "ops serve --port 8321")
    serve.add_argument("--host", default="127.0.0.1", help="where to listen (default: this machine alone)")
    serve.add_argument("--port", type=int, default=8321)
    status = command(
        "status",
        "show the panels as of a moment; the exit code is the verdict",
        "ops status --as-of 2025-11-18T11:30 --window 1h",
    )
    status.add_argument("--window", default="1h", metavar="SPAN", help="how long before that moment (default: 1h)")
    diagnose = command(
        "diagnose",
        "name the likely cause, and the evidence for and against it; the same answer as the runbook's; exit "
        "code 3 where it cannot be determined",
        "ops diagnose --as-of 2025-11-18T11:30 -o json",
    )
    diagnose.add_argument(
        "--window",
        default="1h",
        metavar="SPAN",
        help="how long before that moment (default: 1h); each rule has a window of its own",
    )
    pnl = command(
        "pnl",
        "read a file of fills: trades, costs, and how far they are from a backtest; the exit code is the verdict",
        "ops pnl fills.csv --backtest backtest.csv --costs real",
    )
    pnl.add_argument(
        "fills",
        nargs="?",
        type=Path,
        metavar="FILLS",
        help="tastytrade's export (both layouts), the app's trades as JSON, or plain CSV (default: what was imported)",
    )
    pnl.add_argument("--backtest", type=Path, metavar="FILE", help="the backtest's trades, in any of the same forms")
    pnl.add_argument(
        "--costs",
        choices=("real", "guide", "app"),
        default="real",
        help="how trading is charged: as paid, else $0.65 a contract and side and half the spread; as the "
        "guide's sample; as the app's calculator (default: real)",
    )
    alerts = command(
        "alerts",
        "show what fired, from the record of the collector",
        "ops alerts --from 2025-11-18T09:30 --to 2025-11-18T16:00 --replay",
    )
    alerts.add_argument(
        "--from", dest="start", metavar="TIME", help="after this instant (default: seven days before the end)"
    )
    alerts.add_argument(
        "--to", dest="end", metavar="TIME", help="up to and at this instant (default: --as-of, else now)"
    )
    alerts.add_argument(
        "--replay",
        action="store_true",
        help="judge anew, by the data and rules now at hand, instead of reading the record",
    )
    collect = command(
        "collect",
        "look at the app and its providers, and judge the alerts, until stopped; any number may run, one of "
        "them judges",
        "ops collect --every 5s",
    )
    collect.add_argument(
        "--every",
        default="5s",
        metavar="SPAN",
        help="between two looks whether something is there; others have their own pace (default: 5s)",
    )
    ack = command(
        "ack",
        "take an alert, and all that fires with it, as yours: nobody else is called for it",
        "ops ack availability-massive-page-20260310T152115Z --by Ann",
    )
    ack.add_argument("id", metavar="ID", help="of the alert, as its message and ops status have it")
    ack.add_argument("--by", metavar="NAME", default=None, help="who takes it (default: who is logged in)")
    ack.add_argument("--note", default="", metavar="TEXT")
    silence = command(
        "silence",
        "keep quiet about alerts for a while; list or end what is kept quiet",
        'ops silence add --rule availability --subject massive --for 2h --reason "planned maintenance"',
    )
    silence.add_argument("what", choices=("add", "list", "end"), nargs="?", default="list")
    silence.add_argument("id", metavar="ID", nargs="?", help="of end: which one")
    for name, words in (
        ("rule", "one rule (default: any)"),
        ("subject", "one subject (default: any)"),
        ("source", "one source (default: any)"),
    ):
        silence.add_argument(f"--{name}", default="", metavar="NAME", help=words)
    silence.add_argument("--for", dest="span", metavar="SPAN", help="for how long, such as 2h")
    silence.add_argument("--reason", default="", metavar="TEXT")
    silence.add_argument("--by", metavar="NAME", default=None, help="who says so (default: who is logged in)")
    notify = command(
        "notify",
        "show what was told to whom; --test tries the ways to a channel or a role",
        "ops notify --test 'Tech Lead'",
    )
    notify.add_argument(
        "--test",
        nargs="?",
        const="",
        default=None,
        metavar="CHANNEL|ROLE",
        help="send a message that says it is a trial (default: by every channel)",
    )
    incident = command(
        "incident",
        "show or write down the life of an incident: who holds it, what was done, when it was over",
        'ops incident note 2026-03-10-1 "the vendor called back" --by Ann',
    )
    incident.add_argument(
        "what",
        choices=("list", "show", "open", "note", "mitigate", "resolve", "merge", "dismiss", "reopen", "handover"),
        nargs="?",
        default="list",
    )
    incident.add_argument(
        "words",
        nargs="*",
        metavar="ID|TEXT",
        help="which one (its id, or that of an alert; default: the only open one), then what is said of it; "
        "of open: what is wrong",
    )
    incident.add_argument("--by", metavar="NAME", default=None, help="who says so (default: who is logged in)")
    incident.add_argument("--at", metavar="TIME", default=None, help="when it happened (default: now)")
    incident.add_argument("--to", metavar="NAME", default=None, help="of handover: who holds it now")
    incident.add_argument("--into", metavar="ID", default=None, help="of merge: the one that goes on")
    incident.add_argument("--reason", choices=("false alarm", "duplicate"), default=None, help="of dismiss")
    incident.add_argument("--alert", metavar="ID", default=None, help="of open: the alert that it is for")
    incident.add_argument(
        "--runbook",
        metavar="NAME",
        default=None,
        help="of open: which runbook it needs (default: incident, which is for what has none)",
    )
    incident.add_argument("--subject", default="app", metavar="NAME", help="of open: what it is about (default: app)")
    incident.add_argument(
        "--severity",
        choices=("warning", "notify", "critical", "escalate"),
        default="notify",
        help="of open (default: notify)",
    )
    mark = command("mark", "put a marker on every chart and timeline", 'ops mark deploy "v1.4.0" --at 2026-03-10T11:05')
    mark.add_argument("kind", choices=("deploy", "restart", "note"))
    mark.add_argument("words", nargs="+", metavar="TEXT")
    mark.add_argument("--by", metavar="NAME", default=None, help="who says so (default: who is logged in)")
    mark.add_argument("--at", metavar="TIME", default=None, help="when it happened (default: now)")
    runbook = command(
        "runbook",
        "list or read the runbooks; open one for an incident, filled in; go on with one",
        "ops runbook open massive_down --by Ann",
    )
    runbook.add_argument("what", choices=("list", "show", "open", "resume"), nargs="?", default="list")
    runbook.add_argument("name", nargs="?", metavar="NAME")
    runbook.add_argument(
        "--incident",
        metavar="ID",
        default=None,
        help="for which one (default: that of the alert which leads to it, else a new one)",
    )
    runbook.add_argument("--by", metavar="NAME", default=None, help="who works through it (default: who is logged in)")
    runbook.add_argument(
        "--html",
        metavar="FILE",
        type=Path,
        default=None,
        help="of show: all of them on one page, for the hour when Jupyter is what is down",
    )
    postmortem = command(
        "postmortem",
        "draft the postmortem of an incident from its record, or make it anew around what people wrote",
        "ops postmortem 2026-03-10-1 --check",
    )
    postmortem.add_argument("id", nargs="?", metavar="ID", help="of the incident (default: the only open one)")
    postmortem.add_argument("--check", action="store_true", help="only say what it lacks before others read it")
    postmortem.add_argument(
        "--freeze",
        action="store_true",
        help="keep its moment (--as-of; default: when its runbook was last looked at before it was "
        "mitigated) as a case that ops drill walks from now on, without secrets or names",
    )
    postmortem.add_argument(
        "--cause",
        metavar="CAUSE",
        default="",
        help="of --freeze: what people agreed was the matter (default: what the suite found)",
    )
    postmortem.add_argument("--status", metavar="STATUS", default=None, help="take it on: in-review, reviewed, closed")
    postmortem.add_argument("--by", metavar="NAME", default=None, help="who writes (default: who is logged in)")
    checklist = command(
        "checklist",
        "go through a checklist: what can be looked at is looked at, the rest is asked; the exit code is the verdict",
        "ops checklist morning --by Ann --sign",
    )
    checklist.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="morning, hourly, pre-deploy, staging, production, post-deploy-1h, post-deploy-24h, "
        "post-deploy-1w, monitor-health (default: list them)",
    )
    checklist.add_argument(
        "--by",
        metavar="NAME",
        default=None,
        help="who goes through it (default: who is logged in, where somebody is asked)",
    )
    checklist.add_argument(
        "--sign", action="store_true", help="put that name under it: from then on it stands as it is"
    )
    verify = command(
        "verify",
        "compute a record, a postmortem or a report again from its evidence, and name what differs; the exit "
        "code is the verdict",
        "ops verify outputs/desk/incidents/2026-03-10-1",
    )
    verify.add_argument(
        "path", metavar="PATH|ID", help="an incident's folder, also a copied one; its id; or a published report"
    )
    command(
        "doctor",
        "look at everything once: can we reach it, and what is wrong; the exit code is the verdict",
        "ops doctor",
    )
    for name, told, example in (
        ("lab", "JupyterLab with this suite in its launcher, its own settings beside the user's", "ops lab"),
        ("dashboard", "the live dashboard in a browser, without code; it only shows", "ops dashboard --port 8866"),
    ):
        started = command(name, told, example)
        started.add_argument(
            "--port", type=int, default=0, metavar="PORT", help="on this machine only (default: any that is free)"
        )
        started.add_argument("--no-browser", action="store_true", help="only say where it is")
    greeks = command(
        "greeks",
        "tell what the Greeks of one chain are worth; the exit code is the verdict",
        "ops greeks chain.json --as-of 2026-03-10T11:25",
    )
    greeks.add_argument(
        "what",
        metavar="FILE|SYMBOL",
        help="a chain of Massive, Tradier, Schwab, Cboe or Yahoo, CSV or Parquet; or a symbol, fetched now "
        "(with --as-of: the last kept by then)",
    )
    greeks.add_argument(
        "--from",
        dest="provider",
        choices=("massive", "tradier"),
        default="",
        help="of a symbol: whom to ask (default: massive, beside tradier where both are configured)",
    )
    rules = command("rules", "show the limits in force; check, test, export or try them", "ops rules check")
    rules.add_argument("what", nargs="?", choices=("show", "check", "test", "export", "backtest"), default="show")
    rules.add_argument(
        "argument", nargs="?", metavar="FILE|prometheus", help="of test: a file as promtool's; of export: prometheus"
    )
    rules.add_argument("--from", dest="start", metavar="TIME", help="of backtest: the history to try them on")
    rules.add_argument("--to", dest="end", metavar="TIME")
    rules.add_argument(
        "--troubles",
        type=Path,
        metavar="FILE",
        help="of backtest: JSON list of what was really wrong: rule, subject, from, to",
    )
    rules.add_argument(
        "--candidate", type=Path, metavar="FILE", help="of backtest: a rules.toml to try beside the table in force"
    )
    rules.add_argument(
        "--days",
        type=int,
        default=100,
        metavar="N",
        help="of backtest: days to resample from the history, with troubles put in (default: 100; 0: none)",
    )
    rules.add_argument(
        "--seed",
        type=int,
        default=None,
        metavar="N",
        help="of backtest: the same resampled days again (default: drawn, and printed)",
    )
    report = command(
        "report",
        "execute a report's notebook and publish it as notebook, HTML, Markdown and JSON",
        "ops report daily --day 2025-11-18",
    )
    report.add_argument("name", choices=("daily", "weekly", "monthly", "quarterly", "annual", "success"))
    report.add_argument(
        "--day",
        metavar="DAY",
        help="the trading day, or the period that it is in; of success the last of seven (default: the last "
        "that has closed)",
    )
    report.add_argument(
        "--period", metavar="PERIOD", help="2026-W11, 2026-03, 2026-Q1 or 2026 (default: the last that is over)"
    )
    report.add_argument("--partial", action="store_true", help="before it is over, under another name")
    report.add_argument(
        "--workers",
        type=int,
        default=None,
        metavar="N",
        help="of a range such as --day 2026-01-02..2026-03-31: so many at once (default: 2)",
    )
    report.add_argument(
        "--scheduler", metavar="URL", default=None, help="of a range: on a Dask cluster, such as tcp://HOST:8786"
    )
    report.add_argument("--timeout", type=float, default=None, metavar="S", help="seconds for the whole notebook")
    schedule = command(
        "schedule", "make what is due by schedule.toml: reports, checklists, notebooks", "ops schedule run"
    )
    schedule.add_argument(
        "what",
        choices=("run", "list", "try", "install"),
        help="make what is due until stopped; show what comes next; make each once now, without a trace of "
        "checklists; have the system do it",
    )
    schedule.add_argument(
        "how", nargs="?", choices=("systemd", "cron"), help="of install: by a timer of systemd, or by cron"
    )
    schedule.add_argument("--once", action="store_true", help="of run: make what is due by now, and end; for cron")
    schedule.add_argument("--workers", type=int, default=2, metavar="N", help="so many at once (default: 2)")
    drill = command(
        "drill",
        "prove the runbooks: inject faults into a simulated world, walk the runbook that the alert names, "
        "and show how often the cause was found",
        "ops drill massive_5xx --severity 30 --seed 7",
    )
    drill.add_argument(
        "faults",
        nargs="*",
        metavar="FAULT",
        help="a fault, a pair, a control or a case of this home by its name (default: all); with --mutants, runbooks",
    )
    drill.add_argument(
        "--severity",
        type=float,
        action="append",
        metavar="PERCENT",
        help="the share of answers that is hit; may be repeated (default: 5, 30 and 100)",
    )
    drill.add_argument(
        "--seed",
        type=int,
        action="append",
        metavar="N",
        help="may be repeated (default: three that change with the date, and are printed)",
    )
    drill.add_argument(
        "--record",
        action="store_true",
        help="of everything: keep the rows as the scoreboard that notebooks/drills.ipynb draws, and write "
        "its line into README.md",
    )
    drill.add_argument(
        "--mutants",
        action="store_true",
        help="change each step, check and limit of the runbooks, one at a time, and see whether trials notice",
    )
    drill.add_argument(
        "--live",
        metavar="FAULT",
        default="",
        help="a game day: a world that runs, JupyterLab, and something that becomes the matter while you "
        "look (any: nobody chose it)",
    )
    drill.add_argument("--secret", action="store_true", help="of --live: do not say what it is")
    drill.add_argument("--by", metavar="NAME", default="", help="of --live: who plays")
    drill.add_argument(
        "--workers",
        type=int,
        default=4,
        metavar="N",
        help="so many worlds at once; half of their time they wait (default: 4)",
    )
    feedback = command(
        "feedback",
        "say what the monitoring missed, which alert was noise, what was useful; the quarterly report reads it",
        'ops feedback missed-data "no Greeks for TSLA from 10:05" --by Ann',
    )
    feedback.add_argument("kind", choices=("missed-data", "noise", "useful"))
    feedback.add_argument("words", nargs="*", metavar="TEXT")
    feedback.add_argument("--alert", metavar="ID", default="", help="which alert, as ops alerts has it")
    feedback.add_argument("--by", metavar="NAME", default=None, help="who says so (default: who is logged in)")
    feedback.add_argument("--at", metavar="TIME", default=None, help="when it was so (default: now)")
    run = command(
        "run",
        "execute any notebook strictly: success is decided outside it",
        "ops run notebooks/dashboard.ipynb -p as_of=2026-03-10T11:25",
    )
    run.add_argument("notebook", type=Path)
    run.add_argument(
        "-p",
        dest="given",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter; an unknown or ill-typed one is refused",
    )
    run.add_argument("--timeout", type=float, default=None, metavar="S", help="seconds for the whole notebook")
    command("runs", "show the ledger: every run of a notebook and how it ended", "ops runs -o json")
    return top


def help_text(runs: Mapping[str, Run], topic: str | None) -> str:
    """The help of one command; of all where none is named."""
    top = parser(runs)
    (commands,) = (action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    return (commands.choices[topic] if topic else top).format_help()


def moments(options: argparse.Namespace) -> list[str]:
    """
    Write the moments that were asked for as instants; a day without a time is its close, and a sentence says so.

    Raises:
        UsageError: One of them is no time.
    """
    said = []
    for name in ("as_of", "known_at"):
        if given := getattr(options, name):
            setattr(options, name, formatting.iso(time_parsing.parse(given, "close")))
            said += [f"--{name.replace('_', '-')} {words}." for words in [time_parsing.close_of(given)] if words]
    return said

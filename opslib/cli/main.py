"""
Run the commands of CONTRACT.md: parse the options, report errors, return the exit code.

Results go to stdout, progress and errors to stderr. What a command does stands in ``commands`` and in the packages
below. Imports that cost time happen in the command that needs them.
"""

import argparse
import errno
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib.cli import output, parser, topics
from opslib.cli.commands import alerts
from opslib.cli.stdout import Stdout
from opslib.foundation import clock, crash_log, formatting, logs, time_parsing
from opslib.foundation.config.contacts import Contacts
from opslib.foundation.errors import ImportRefused, OpsError, SettingsError, UsageError
from opslib.telemetry.pages.store import SnapshotStore

if TYPE_CHECKING:
    from opslib.desk import Desk

DONE, INCOMPLETE, FAILED, STOPPED = 0, 3, 70, 130
# Errors of a file that are no defect of ours: a full disk, missing permissions.
REFUSED_BY_SYSTEM = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
STATES = {"ok": DONE, "late": DONE, "incomplete": INCOMPLETE, "failed": FAILED}


def main(arguments: list[str] | None = None) -> int:
    """
    Run one command and return its exit code.

    An unexpected exception is 70; one sentence on stderr names the log that holds the traceback.
    """
    argv = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # Text is written unchanged, whatever the locale.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    ours, what, home = sys.stdout, "ops", None
    try:
        if ours is not None:
            sys.stdout = Stdout(ours)
        options = parser.parser(COMMANDS).parse_args(argv)
        for name in ("home", "app", "as_of", "known_at"):
            setattr(options, name, getattr(options, name, None))
        options.output = getattr(options, "output", "text")
        options.command = options.command or "help"
        what, home = f"ops {options.command}", options.home
        logs.to_stderr(what)
        crash_log.watch_threads(home, what)
        for words in parser.resolve_times(options):
            _say(f"ops: {words}")
        with output.fitted():
            code: int = options.run(options)
        if options.command in CHANGES and getattr(options, "what", None) not in READS:
            _keep_home_current(options)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except OpsError as problem:
        _say(f"ops: {problem}")
        return problem.exit_code
    except KeyboardInterrupt:
        _say("ops: stopped")
        return STOPPED
    except Exception as problem:  # Its type goes into the message, its traceback into the log.
        if isinstance(problem, OSError) and problem.errno in REFUSED_BY_SYSTEM and problem.filename is not None:
            _say(
                f"ops: {formatting.single_line(str(problem.filename))} could not be read or written "
                f"({problem.strerror}). Free some space, give access to it, or use another home directory (--home)."
            )
        else:
            _say(crash_log.record(problem, home, what))
        return FAILED
    finally:
        sys.stdout = ours


def _say(words: str) -> None:
    """Print a line on stderr, without secrets and control characters. A closed stderr is no error."""
    from opslib.foundation.config.settings import redacted

    with suppress(OSError):
        print(formatting.printable(redacted(words)), file=sys.stderr, flush=True)


def _keep_home_current(options: argparse.Namespace) -> None:
    """Rebuild index.html of the home directory, which shows what the command has changed."""
    from opslib import connect
    from opslib.foundation.config.settings import DEMO
    from opslib.reports import index_page

    index_page.keep_current(connect(DEMO if options.command == "demo" else options.app, options.home, new=True))


def _desk(options: argparse.Namespace, new: bool = False) -> "Desk":
    from opslib import connect
    from opslib.foundation.config import settings

    if options.app == settings.DEMO and not settings.load(options.home, options.app).home.exists():
        _say("creating the demo's data (once, about 15 seconds)")
    return connect(options.app, options.home, new)


def _new_desk(options: argparse.Namespace) -> "Desk":
    """Open a desk, and create it if it does not exist yet."""
    desk = _desk(options, new=True)
    (desk.settings.outputs / "runs").mkdir(parents=True, exist_ok=True)
    return desk


def _progress(items: Iterable[Any], total: int | None, words: str, unit: str = "posts") -> Iterator[Any]:
    """Show a progress bar if stderr is a terminal, else one line."""
    if not sys.stderr.isatty():
        _say(words)
        yield from items
        return
    from tqdm import tqdm

    yield from tqdm(items, total=total, desc=formatting.printable(words), unit=f" {unit}", leave=False)


def _importing(path: Path) -> Callable[[Iterable[Any]], Iterable[Any]]:
    return lambda lines: _progress(lines, None, f"reading {path.name}")


def _help(options: argparse.Namespace) -> int:
    topic = getattr(options, "topic", None)
    if topic in topics.names():
        output.show_markdown(topics.text(topic))
    else:
        print(parser.help_text(COMMANDS, topic), end="")
    return DONE


def _completion(options: argparse.Namespace) -> int:
    import shtab

    print(shtab.complete(parser.parser(COMMANDS), shell=options.shell), end="")
    return DONE


def _demo(options: argparse.Namespace) -> int:
    from opslib.cli.commands import demo

    return _print_reply(options, demo.play(options, _progress, _say))


def _drill(options: argparse.Namespace) -> int:
    from opslib.cli.commands import drill

    return _print_reply(options, drill.run(options, _progress, _say))


def _timeout(given: float | None) -> float:
    from opslib.jobs import executor

    if given is not None and not 0 < given <= 86_400:
        raise UsageError(f"--timeout is {given:g}; expected seconds, more than 0 and at most 86400.")
    return executor.TIMEOUT_S if given is None else given


def _import(options: argparse.Namespace) -> int:
    from opslib.telemetry import importing

    desk = _desk(options, new=not options.rejects)
    if options.rejects:
        found = [
            {
                "source": r.source,
                "known_at": formatting.iso(clock.instant(at)),
                "reasons": list(r.reasons),
                "body": r.body.decode("utf-8", "replace"),
            }
            for at, r in SnapshotStore(desk.store).rejects(desk.settings.app)
        ]
        if options.output == "json":
            output.show_json(found)
        else:
            output.show(
                *(
                    [
                        f"{r['source']}: {'; '.join(formatting.single_line(reason) for reason in r['reasons'])}"
                        for r in found
                    ]
                    or ["no row was rejected"]
                )
            )
        return DONE
    if not options.paths:
        raise UsageError("no file was given. Name one or more files to import; see ops import --help.")
    totals: list[tuple[Path, importing.ImportResult]] = []
    refused: list[str] = []
    how: dict[str, Any] = {
        "rules": desk.rules,
        "as_of": time_parsing.parse(options.as_of) if options.as_of else None,
        "known_at_ts": options.known_at_ts,
        "redact": desk.settings.redact,
    }
    for path in options.paths:
        try:
            totals.append(
                (
                    path,
                    importing.read_any(
                        desk.store, desk.settings.app, path, options.kind, progress=_importing(path), **how
                    ),
                )
            )
        except (ImportRefused, UsageError) as problem:
            refused.append(str(problem))
    if options.output == "json":
        output.show_json([{"path": str(path), **found.as_json()} for path, found in totals])
    else:
        for path, result in totals:
            errors = (
                ""
                if result.errors is None
                else f"; {formatting.number(result.errors)} errors"
                + (f" ({', '.join(f'{kind} {n:,}' for kind, n in result.by_kind.items())})" if result.by_kind else "")
            )
            output.show(
                f"{path}: {result.accepted:,} accepted, {result.duplicate:,} duplicate, {result.rejected:,} "
                f"rejected{errors}"
            )
    for path, result in totals:
        if result.remark:
            _say(f"{path}: {result.remark}.")
    if any(found.rejected for _, found in totals):
        _say("ops: some rows were rejected. To see each with its reason: ops import --rejects")
    for words in refused:
        _say(f"ops: {words}")
    return FAILED if refused or any(found.rejected for _, found in totals) else DONE


def _export(options: argparse.Namespace) -> int:
    from opslib.telemetry import importing

    window = importing.window(options.day, options.start, options.end, options.as_of)
    desk = _desk(options)
    for line in importing.exported(
        desk.store, desk.settings.app, window, time_parsing.parse(options.known_at) if options.known_at else None
    ):
        print(formatting.escaped_json(line))
        if isinstance(sys.stdout, Stdout) and not sys.stdout.is_read:
            break  # The reader is gone.
    return DONE


def _serve(options: argparse.Namespace) -> int:
    from opslib.services import serve

    if not 0 < options.port < 65_536:
        raise UsageError(f"--port is {options.port}; expected 1 to 65535.")
    desk = _new_desk(options)
    try:
        contacts = desk.contacts
    except SettingsError as problem:  # Snapshots are received all the same.
        _say(f"ops: {problem} Until this is fixed, notifications that a dead collector did not send are printed here.")
        contacts = Contacts()
    serve(desk.settings, desk.store, desk.rules, contacts, host=options.host, port=options.port)
    return DONE


def _status(options: argparse.Namespace) -> int:
    view = _desk(options).status(options.as_of, options.window, options.known_at)
    if options.output == "json":
        output.show_json(view.as_json())
    else:
        output.show(view, *(f"\n{panel!r}" for panel in view.panels))
    return view.exit_code


def _diagnose(options: argparse.Namespace) -> int:
    from opslib.runbooks import diagnose

    desk = _desk(options)
    return _with_verdict(options, diagnose(desk.status(options.as_of, options.window, options.known_at)))


def _pnl(options: argparse.Namespace) -> int:
    found = _desk(options).pnl(options.fills, options.backtest, options.costs, options.as_of, known_at=options.known_at)
    if options.output == "json":
        output.show_json(found.as_json())
    else:
        output.show(found)
    return found.exit_code


def _alerts(options: argparse.Namespace) -> int:
    desk = _desk(options)
    end = time_parsing.parse(options.end, "end") if options.end else options.as_of
    start = options.start or None
    log = desk.alerts(
        end,
        known_at=options.known_at,
        since=start,
        replay=options.replay,
        progress=lambda instants: _progress(instants, None, "evaluating", "instants"),
    )
    if options.output == "json":
        output.show_json(log.as_json())
    else:
        output.show(log)
    if log.missing:
        _say(f"ops: {log.missing}")
    return INCOMPLETE if log.missing else DONE


def _collect(options: argparse.Namespace) -> int:
    from opslib.services import collect

    every_s = time_parsing.parse_span(options.every).total_seconds()
    if not 1 <= every_s <= 60:
        raise UsageError(f"--every is {options.every}; expected 1s to 60s.")
    desk = _new_desk(options)
    contacts, targets = desk.contacts, desk.settings.targets
    probing = f"probing {', '.join(targets)} every {options.every}"
    _say(
        f"{probing if targets else 'nothing to probe is configured (ops help settings)'}; "
        f"evaluating the alerts of {desk.settings.app}. Press Ctrl-C to stop."
    )
    collect(desk.settings, desk.store, desk.rules, contacts, every_s)
    return DONE


def _ack(options: argparse.Namespace) -> int:
    return _print_reply(options, alerts.ack(_desk(options), options))


def _silence(options: argparse.Namespace) -> int:
    return _print_reply(options, alerts.silence(_desk(options), options))


def _notify(options: argparse.Namespace) -> int:
    return _print_reply(options, alerts.notify(_desk(options), options))


def _incident(options: argparse.Namespace) -> int:
    from opslib.cli.commands import incidents

    return _print_reply(options, incidents.incident(_desk(options), options))


def _mark(options: argparse.Namespace) -> int:
    from opslib.cli.commands import incidents

    return _print_reply(options, incidents.mark(_desk(options), options))


def _runbook(options: argparse.Namespace) -> int:
    from opslib.cli.commands import incidents

    return _print_reply(
        options,
        incidents.runbook(_desk(options), options)
        if options.what in ("open", "resume")
        else incidents.shelved(options),
    )


def _postmortem(options: argparse.Namespace) -> int:
    from opslib.cli.commands import incidents

    return _print_reply(options, incidents.postmortem(_desk(options), options))


def _checklist(options: argparse.Namespace) -> int:
    from opslib.cli.commands import checklists

    return (
        _with_verdict(options, checklists.run_checklist(_desk(options), options))
        if options.name
        else _print_reply(options, checklists.listed())
    )


def _verify(options: argparse.Namespace) -> int:
    from opslib.foundation.config import settings
    from opslib.reports import verify

    found = settings.load(options.home, options.app)
    # Verifying a copied folder does not create a home directory.
    there = bool(found.store_url) or (found.home / "store.sqlite").exists()
    return _with_verdict(options, verify(options.path, _desk(options) if there else None))


def _print_reply(options: argparse.Namespace, reply: "output.Reply") -> int:
    if options.output == "json":
        output.show_json(reply.values)
    else:
        output.show(reply.words)
    return DONE if reply.done else FAILED


def _greeks(options: argparse.Namespace) -> int:
    return _with_verdict(
        options, _desk(options).greeks(options.what, options.provider, options.as_of, options.known_at)
    )


def _lab(options: argparse.Namespace) -> int:
    return _started(options, "lab")


def _dashboard(options: argparse.Namespace) -> int:
    return _started(options, "dashboard")


def _started(options: argparse.Namespace, what: str) -> int:
    """Replace this process by JupyterLab, or by the dashboard without code."""
    from opslib.foundation import network
    from opslib.jobs import jupyterlab
    from opslib.runbooks import catalog

    desk = _desk(options)
    if not 0 <= options.port <= 65_535:
        raise UsageError(f"--port is {options.port}; expected 0 (any free port) to 65535.")
    place, port = jupyterlab.prepare(desk.settings, os.environ, catalog.titles()), options.port or network.free_port()
    command = getattr(place, what)(port, not options.no_browser)
    print(place.address(what, port), flush=True)  # Printed, not logged: a message would have its token redacted.
    os.execve(command[0], command, place.environ | ({jupyterlab.READ_ONLY: "1"} if what == "dashboard" else {}))


def _doctor(options: argparse.Namespace) -> int:
    return _with_verdict(options, _desk(options).doctor())


def _with_verdict(options: argparse.Namespace, found: Any) -> int:
    """Print a result that has a verdict, and return the verdict as exit code."""
    if options.output == "json":
        output.show_json(found.as_json())
    else:
        output.show(found)
    return int(found.exit_code)


def _rules(options: argparse.Namespace) -> int:
    from opslib.cli.commands import rules

    expected = {"test": "a FILE", "export": "prometheus"}.get(options.what)
    if bool(options.argument) != bool(expected) or (options.what == "export" and options.argument != "prometheus"):
        raise UsageError(f"ops rules {options.what} takes {expected or 'no argument'}. See ops rules --help.")
    found = rules.run(_desk(options), options, lambda items, total, words, unit: _progress(items, total, words, unit))
    if options.output == "json" and options.what != "export":
        output.show_json(found.values)
    else:
        output.show(found.words, end="" if found.words.endswith("\n") else "\n")
    return DONE if found.right else FAILED


def _report(options: argparse.Namespace) -> int:
    from opslib.jobs.kernels import with_kernel_pool
    from opslib.reports import daily, publishing

    if options.period and (options.day or options.name == "daily"):
        raise UsageError("--day and --period exclude each other, and the daily report takes only --day.")
    if ".." in (options.day or options.period or ""):
        from opslib.cli.commands import schedule

        reply, states = schedule.ranged(_desk(options), options, _timeout(options.timeout), _progress)
        _print_reply(options, reply)
        return max(STATES.get(state, DONE) for state in states)
    if options.workers or options.scheduler:
        raise UsageError("--workers and --scheduler need a range, such as --day 2026-01-02..2026-03-31.")
    how = {
        "as_of": options.as_of,
        "known_at": options.known_at,
        "partial": options.partial,
        "timeout_s": _timeout(options.timeout),
    }
    with with_kernel_pool(lambda: _desk(options)) as (desk, kernels):
        if options.name == "daily":
            day = daily.meant_day(desk, options.day, options.as_of)
            _say(f"executing the daily report of {day}")
            return _ended(options, *publishing.publish_daily(desk, day, **how, kernels=kernels))
        meant = (
            desk.review(options.name, options.period or "", options.as_of)
            if not options.day
            else publishing.review_of(desk, options.name, options.day, options.as_of)
        )
        _say(f"executing the {options.name} report of {meant.period.name}")
        return _ended(
            options, *publishing.publish_review(desk, options.name, meant.period.name, **how, kernels=kernels)
        )


def _schedule(options: argparse.Namespace) -> int:
    from opslib.cli.commands import schedule

    found = schedule.execute(lambda: _desk(options), options, _progress)
    return found if isinstance(found, int) else _print_reply(options, found)


def _feedback(options: argparse.Namespace) -> int:
    return _print_reply(options, alerts.feedback(_desk(options), options))


def _run(options: argparse.Namespace) -> int:
    from opslib.jobs import executor

    given = {}
    for pair in options.given:
        name, sign, value = pair.partition("=")
        if not sign:
            raise UsageError(f"-p {pair} is not of the form NAME=VALUE.")
        given[name] = value
    desk = _desk(options, new=True)
    path = (
        options.notebook
        if options.notebook.suffix == ".ipynb" or options.notebook.exists()
        else options.notebook.with_suffix(".ipynb")
    )
    outcome, place = executor.run(
        path, given, settings=desk.settings, store=desk.store, timeout_s=_timeout(options.timeout)
    )
    return _ended(options, outcome, place)


def _ended(options: argparse.Namespace, outcome: Any, place: Path) -> int:
    """Print how a run ended; with ``-o json``, a report's numbers."""
    if outcome.state == "failed":
        executed = f"The notebook as executed: {place}.ipynb. " if Path(f"{place}.ipynb").exists() else ""
        _say(f"ops: the run failed: {outcome.reason}. {executed}Its ID in ops runs: {outcome.run_id}.")
        return FAILED
    if options.output == "json":
        output.show_json(
            outcome.record["values"]
            if outcome.record
            else {"id": outcome.run_id, "state": outcome.state, "notebook": f"{place}.ipynb"}
        )
    else:
        done = "published" if outcome.record else "executed"
        if outcome.state == "incomplete":
            done = "published as incomplete"
        verdict = f", verdict {outcome.record['values']['verdict']}" if outcome.record else ""
        output.show(f"{done}{verdict}: {place}.html" + (f" ({outcome.reason})" if outcome.reason else ""))
    return STATES[outcome.state]


def _runs(options: argparse.Namespace) -> int:
    from opslib.jobs import ledger

    found = ledger.runs(_desk(options).store)
    if options.output == "json":
        output.show_json(found)
    elif not found:
        output.show("no notebook has been run yet")
    else:
        output.show(
            formatting.table(
                ["started", "notebook", "state", "reason"],
                [
                    [r["started_at"], Path(r["notebook"]).stem, r["state"], formatting.single_line(r["reason"] or "")]
                    for r in found
                ],
            )
        )
    return DONE


# Commands after which Home is made again, and what they are given when they only read.
CHANGES = ("ack", "checklist", "demo", "incident", "mark", "postmortem", "report", "run", "runbook", "schedule")
READS = ("list", "show", "install", "run")
COMMANDS: dict[str, parser.Run] = {
    "help": _help,
    "completion": _completion,
    "demo": _demo,
    "drill": _drill,
    "import": _import,
    "export": _export,
    "serve": _serve,
    "status": _status,
    "diagnose": _diagnose,
    "pnl": _pnl,
    "alerts": _alerts,
    "collect": _collect,
    "ack": _ack,
    "silence": _silence,
    "notify": _notify,
    "incident": _incident,
    "mark": _mark,
    "runbook": _runbook,
    "postmortem": _postmortem,
    "checklist": _checklist,
    "verify": _verify,
    "greeks": _greeks,
    "lab": _lab,
    "dashboard": _dashboard,
    "doctor": _doctor,
    "rules": _rules,
    "report": _report,
    "schedule": _schedule,
    "feedback": _feedback,
    "run": _run,
    "runs": _runs,
}


if __name__ == "__main__":
    sys.exit(main())

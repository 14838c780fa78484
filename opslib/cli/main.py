"""
Run the commands of CONTRACT.md: options, errors and exit codes.

Results go to stdout, progress and errors to stderr. `parser` has the options; what a command does stands elsewhere.
Imports that cost time happen in the command that needs them.
"""

import argparse
import errno
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib.cli import output, parser
from opslib.cli.commands import alerts
from opslib.cli.stdout import Stdout
from opslib.foundation import clock, crash_log, formatting, logs, time_parsing
from opslib.foundation.config.contacts import Contacts
from opslib.foundation.errors import ImportRefused, OpsError, SettingsError, UsageError
from opslib.telemetry.pages.store import SnapshotStore

if TYPE_CHECKING:
    from opslib.desk import Desk

DONE, INCOMPLETE, FAILED, STOPPED = 0, 3, 70, 130
# Of a file: no defect, but a disk or its modes.
REFUSED_BY_SYSTEM = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
STATES = {"ok": DONE, "late": DONE, "incomplete": INCOMPLETE, "failed": FAILED}


def main(arguments: list[str] | None = None) -> int:
    """
    Run one command and return its exit code.

    An exception that nobody expected is 70, with one sentence on stderr that names the log with the traceback.
    """
    asked = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # Whatever the terminal is set to, what came in goes out the same.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    ours, what, home = sys.stdout, "ops", None
    try:
        if ours is not None:
            sys.stdout = Stdout(ours)
        options = parser.parser(COMMANDS).parse_args(asked)
        for name in ("home", "app", "as_of", "known_at"):
            setattr(options, name, getattr(options, name, None))
        options.output = getattr(options, "output", "text")
        options.command = options.command or "help"
        what, home = f"ops {options.command}", options.home
        logs.to_stderr(what)
        crash_log.watch_threads(home, what)
        for words in parser.moments(options):
            _say(f"ops: {words}")
        code: int = options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except OpsError as problem:
        _say(f"ops: {problem}")
        return problem.exit_code
    except KeyboardInterrupt:
        _say("ops: stopped")
        return STOPPED
    except Exception as problem:  # Whatever it is: its kind goes into the sentence, its traceback into the log.
        if isinstance(problem, OSError) and problem.errno in REFUSED_BY_SYSTEM and problem.filename is not None:
            _say(
                f"ops: {formatting.single_line(str(problem.filename))} could not be written or read ({problem.strerror}"
                f"). Make room or give access there, or name another home (--home), then try again."
            )
        else:
            _say(crash_log.record(problem, home, what))
        return FAILED
    finally:
        sys.stdout = ours


def _say(words: str) -> None:
    """A line on stderr, without secrets, and without what a terminal would obey; nowhere, where nobody reads it."""
    from opslib.foundation.config.settings import redacted

    with suppress(OSError):
        print(formatting.printable(redacted(words)), file=sys.stderr, flush=True)


def _print(*words: object, end: str = "\n") -> None:
    """Lines on stdout, without what a terminal would obey."""
    print(formatting.printable("\n".join(str(w) for w in words)), end=end)


def _desk(options: argparse.Namespace, new: bool = False) -> "Desk":
    from opslib import connect
    from opslib.foundation.config import settings

    if options.app == settings.DEMO and not settings.load(options.home, options.app).home.exists():
        _say("making the demo's two days, once; this takes some 15 seconds")
    return connect(options.app, options.home, new)


def _begun(options: argparse.Namespace) -> "Desk":
    """A desk that is known from now on, though nothing has come for it yet."""
    desk = _desk(options, new=True)
    (desk.settings.outputs / "runs").mkdir(parents=True, exist_ok=True)
    return desk


def _print_json(found: Any) -> None:
    print(formatting.escaped_json(json.dumps(found, indent=1, ensure_ascii=False)))


def _progress(items: Iterable[Any], total: int | None, words: str, unit: str = "posts") -> Iterator[Any]:
    """A bar on stderr where somebody looks at it, one line where nobody does."""
    if not sys.stderr.isatty():
        _say(words)
        yield from items
        return
    from tqdm import tqdm

    yield from tqdm(items, total=total, desc=formatting.printable(words), unit=f" {unit}", leave=False)


def _importing(path: Path) -> Callable[[Iterable[Any]], Iterable[Any]]:
    return lambda lines: _progress(lines, None, f"reading {path.name}")


def _help(options: argparse.Namespace) -> int:
    print(parser.help_text(COMMANDS, getattr(options, "topic", None)), end="")
    return DONE


def _demo(options: argparse.Namespace) -> int:
    from opslib.cli.commands import demo

    return _shown(options, demo.asked(options, _progress, _say))


def _drill(options: argparse.Namespace) -> int:
    from opslib.cli.commands import drill

    return _shown(options, drill.asked(options, _progress, _say))


def _timeout(given: float | None) -> float:
    from opslib.jobs import executor

    if given is not None and not 0 < given <= 86_400:
        raise UsageError(f"--timeout is seconds above 0 and up to a day, found {given:g}.")
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
            _print_json(found)
        else:
            _print(
                *(
                    [
                        f"{r['source']}: {'; '.join(formatting.single_line(reason) for reason in r['reasons'])}"
                        for r in found
                    ]
                    or ["nothing was ever refused"]
                )
            )
        return DONE
    if not options.paths:
        raise UsageError("a file to import was wanted. See ops import --help.")
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
        _print_json([{"path": str(path), **found.as_json()} for path, found in totals])
    else:
        for path, result in totals:
            errors = (
                ""
                if result.errors is None
                else f"; {formatting.number(result.errors)} errors"
                + (f" ({', '.join(f'{kind} {n:,}' for kind, n in result.by_kind.items())})" if result.by_kind else "")
            )
            _print(
                f"{path}: {result.accepted:,} accepted, {result.duplicate:,} duplicate, {result.rejected:,} "
                f"rejected{errors}"
            )
    for path, result in totals:
        if result.remark:
            _say(f"{path}: {result.remark}.")
    if any(found.rejected for _, found in totals):
        _say("ops: rows were rejected; ops import --rejects says why, line by line.")
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
            break  # Nobody reads what a long history would still give.
    return DONE


def _serve(options: argparse.Namespace) -> int:
    from opslib.services import serve

    if not 0 < options.port < 65_536:
        raise UsageError(f"--port is 1 to 65535, found {options.port}.")
    desk = _begun(options)
    try:
        staff = desk.staff
    except SettingsError as problem:  # What is posted is received all the same.
        _say(f"ops: {problem} Until that is set right, what a dead collector leaves untold is told on this terminal.")
        staff = Contacts()
    serve(desk.settings, desk.store, desk.rules, staff, host=options.host, port=options.port)
    return DONE


def _status(options: argparse.Namespace) -> int:
    view = _desk(options).status(options.as_of, options.window, options.known_at)
    if options.output == "json":
        _print_json(view.as_json())
    else:
        _print(view, *(f"\n{panel!r}" for panel in view.panels))
    return view.exit_code


def _diagnose(options: argparse.Namespace) -> int:
    from opslib.runbooks import diagnose

    desk = _desk(options)
    return _judged(options, diagnose(desk.status(options.as_of, options.window, options.known_at)))


def _pnl(options: argparse.Namespace) -> int:
    found = _desk(options).pnl(options.fills, options.backtest, options.costs, options.as_of, known_at=options.known_at)
    if options.output == "json":
        _print_json(found.as_json())
    else:
        _print(found)
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
        progress=lambda instants: _progress(instants, None, "judging anew", "instants"),
    )
    if options.output == "json":
        _print_json(log.as_json())
    else:
        _print(log)
    if log.lacking:
        _say(f"ops: {log.lacking}")
    return INCOMPLETE if log.lacking else DONE


def _collect(options: argparse.Namespace) -> int:
    from opslib.services import collect

    every_s = time_parsing.parse_span(options.every).total_seconds()
    if not 1 <= every_s <= 60:
        raise UsageError(f"--every is 1s to 60s, found {options.every}.")
    desk = _begun(options)
    staff, looked_at = desk.staff, desk.settings.looked_at
    _say(
        f"looking every {options.every} at "
        f"{', '.join(looked_at) or 'nothing (see README: Look for ourselves)'}, judging the alerts of "
        f"{desk.settings.app}; Ctrl-C stops"
    )
    collect(desk.settings, desk.store, desk.rules, staff, every_s)
    return DONE


def _ack(options: argparse.Namespace) -> int:
    return _shown(options, alerts.ack(_desk(options), options))


def _silence(options: argparse.Namespace) -> int:
    return _shown(options, alerts.silence(_desk(options), options))


def _notify(options: argparse.Namespace) -> int:
    return _shown(options, alerts.notified(_desk(options), options))


def _incident(options: argparse.Namespace) -> int:
    from opslib.cli.commands import incidents

    return _shown(options, incidents.incident(_desk(options), options))


def _mark(options: argparse.Namespace) -> int:
    from opslib.cli.commands import incidents

    return _shown(options, incidents.mark(_desk(options), options))


def _runbook(options: argparse.Namespace) -> int:
    from opslib.cli.commands import incidents

    return _shown(
        options,
        incidents.runbook(_desk(options), options)
        if options.what in ("open", "resume")
        else incidents.shelved(options),
    )


def _postmortem(options: argparse.Namespace) -> int:
    from opslib.cli.commands import incidents

    return _shown(options, incidents.postmortem(_desk(options), options))


def _checklist(options: argparse.Namespace) -> int:
    from opslib.cli.commands import checklists

    return (
        _judged(options, checklists.gone_through(_desk(options), options))
        if options.name
        else _shown(options, checklists.listed())
    )


def _verify(options: argparse.Namespace) -> int:
    from opslib.foundation.config import settings
    from opslib.reports import verify

    found = settings.load(options.home, options.app)
    # To verify a copied folder lays nothing out.
    there = bool(found.store_url) or (found.home / "store.sqlite").exists()
    return _judged(options, verify(options.path, _desk(options) if there else None))


def _shown(options: argparse.Namespace, reply: "output.Reply") -> int:
    if options.output == "json":
        _print_json(reply.values)
    else:
        _print(reply.words)
    return DONE if reply.done else FAILED


def _greeks(options: argparse.Namespace) -> int:
    return _judged(options, _desk(options).greeks(options.what, options.provider, options.as_of, options.known_at))


def _lab(options: argparse.Namespace) -> int:
    return _started(options, "lab")


def _dashboard(options: argparse.Namespace) -> int:
    return _started(options, "dashboard")


def _started(options: argparse.Namespace, what: str) -> int:
    """Become JupyterLab, or the dashboard without code."""
    from opslib.foundation import network
    from opslib.jobs import jupyterlab
    from opslib.runbooks import catalog

    desk = _desk(options)
    if not 0 <= options.port <= 65_535:
        raise UsageError(f"--port is 0 (any) to 65535, found {options.port}.")
    place, port = jupyterlab.prepare(desk.settings, os.environ, catalog.titles()), options.port or network.free_port()
    command = getattr(place, what)(port, not options.no_browser)
    print(place.address(what, port), flush=True)  # Its token is for who asked for it; messages would leave it out.
    os.execve(command[0], command, place.environ | ({jupyterlab.READ_ONLY: "1"} if what == "dashboard" else {}))


def _doctor(options: argparse.Namespace) -> int:
    return _judged(options, _desk(options).doctor())


def _judged(options: argparse.Namespace, found: Any) -> int:
    """Show what has a verdict, which is the exit code."""
    if options.output == "json":
        _print_json(found.as_json())
    else:
        _print(found)
    return int(found.exit_code)


def _rules(options: argparse.Namespace) -> int:
    from opslib.cli.commands import rules

    wanted = {"test": "a FILE", "export": "prometheus"}.get(options.what)
    if bool(options.argument) != bool(wanted) or (options.what == "export" and options.argument != "prometheus"):
        raise UsageError(f"ops rules {options.what} takes {wanted or 'no argument'}. See ops rules --help.")
    found = rules.asked(_desk(options), options, lambda items, total, words, unit: _progress(items, total, words, unit))
    if options.output == "json" and options.what != "export":
        _print_json(found.values)
    else:
        _print(found.words, end="" if found.words.endswith("\n") else "\n")
    return DONE if found.right else FAILED


def _report(options: argparse.Namespace) -> int:
    from opslib.jobs.kernels import with_kernel_pool
    from opslib.reports import daily, publishing

    if options.period and (options.day or options.name == "daily"):
        raise UsageError("a daily report is of a --day, every other of a --day or a --period, not both.")
    if ".." in (options.day or options.period or ""):
        from opslib.cli.commands import schedule

        reply, states = schedule.ranged(_desk(options), options, _timeout(options.timeout), _progress)
        _shown(options, reply)
        return max(STATES.get(state, DONE) for state in states)
    if options.workers or options.scheduler:
        raise UsageError("--workers and --scheduler are of a range, such as --day 2026-01-02..2026-03-31.")
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
            return _told(options, *publishing.publish_daily(desk, day, **how, kernels=kernels))
        meant = (
            desk.review(options.name, options.period or "", options.as_of)
            if not options.day
            else publishing.review_of(desk, options.name, options.day, options.as_of)
        )
        _say(f"executing the {options.name} report of {meant.period.name}")
        return _told(options, *publishing.publish_review(desk, options.name, meant.period.name, **how, kernels=kernels))


def _schedule(options: argparse.Namespace) -> int:
    from opslib.cli.commands import schedule

    found = schedule.asked(lambda: _desk(options), options, _progress)
    return found if isinstance(found, int) else _shown(options, found)


def _feedback(options: argparse.Namespace) -> int:
    return _shown(options, alerts.feedback(_desk(options), options))


def _run(options: argparse.Namespace) -> int:
    from opslib.jobs import executor

    given = {}
    for pair in options.given:
        name, sign, value = pair.partition("=")
        if not sign:
            raise UsageError(f"a parameter is NAME=VALUE, found {pair!r}.")
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
    return _told(options, outcome, place)


def _told(options: argparse.Namespace, outcome: Any, place: Path) -> int:
    """Say how a run ended; a report's numbers are its result."""
    if outcome.state == "failed":
        executed = f"What was executed is in {place}.ipynb. " if Path(f"{place}.ipynb").exists() else ""
        _say(f"ops: the run failed: {outcome.reason}. {executed}The ledger has it as {outcome.run_id}.")
        return FAILED
    if options.output == "json":
        _print_json(
            outcome.record["values"]
            if outcome.record
            else {"id": outcome.run_id, "state": outcome.state, "notebook": f"{place}.ipynb"}
        )
    else:
        done = "published" if outcome.record else "executed"
        if outcome.state == "incomplete":
            done = "published as incomplete"
        verdict = f", verdict {outcome.record['values']['verdict']}" if outcome.record else ""
        _print(f"{done}{verdict}: {place}.html" + (f" ({outcome.reason})" if outcome.reason else ""))
    return STATES[outcome.state]


def _runs(options: argparse.Namespace) -> int:
    from opslib.jobs import ledger

    found = ledger.runs(_desk(options).store)
    if options.output == "json":
        _print_json(found)
    elif not found:
        _print("no notebook has been run yet")
    else:
        _print(
            formatting.table(
                ["started", "notebook", "state", "reason"],
                [
                    [r["started_at"], Path(r["notebook"]).stem, r["state"], formatting.single_line(r["reason"] or "")]
                    for r in found
                ],
            )
        )
    return DONE


COMMANDS: dict[str, parser.Run] = {
    "help": _help,
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

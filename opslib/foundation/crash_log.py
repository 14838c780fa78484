"""Write the traceback of an unexpected exception to a log file, with secrets redacted."""

import os
import sys
import tempfile
import threading
import traceback
from pathlib import Path

from opslib.foundation import clock, formatting, logs, version
from opslib.foundation.config import settings
from opslib.foundation.errors import SettingsError

NAME, EARLIER = "crash.log", "crash.log.1"
MOST_BYTES = 1_000_000  # A larger log is renamed to `EARLIER`, and a new one is started.
LONGEST_REASON = 300


def record(problem: BaseException, home: str | Path | None, what: str) -> str:
    """
    Append a traceback to ``crash.log`` of a home directory.

    If that file cannot be written, the traceback goes to a new file in the system's temporary directory.

    Args:
        home: The home directory given by the caller; None means the one that the environment names.
        what: What was running, such as ``ops status``.

    Returns:
        One sentence for stderr: what happened, and where the traceback is.
    """
    reason = formatting.single_line(
        settings.redacted("".join(traceback.format_exception_only(problem)).strip().splitlines()[-1]), LONGEST_REASON
    )
    trace = settings.redacted("".join(traceback.format_exception(problem)))
    entry = (
        f"{formatting.iso(clock.machine_now())} {what}, process {os.getpid()}, opslib {version.VERSION}, "
        f"Python {sys.version.split()[0]}\n{trace}\n"
    )
    try:
        place = str(_append(entry, home))
    except OSError as refused:
        return (
            f"{what} failed unexpectedly ({reason}). This is a bug in ops: please report it. The traceback could not "
            f"be saved ({refused.strerror})."
        )
    return (
        f"{what} failed unexpectedly ({reason}). This is a bug in ops: please report it with the traceback in {place}."
    )


def _append(entry: str, home: str | Path | None) -> Path:
    try:
        log = settings.home_of(home, os.environ) / NAME
        if log.exists() and log.stat().st_size > MOST_BYTES:
            log.replace(log.with_name(EARLIER))
        with open(log, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(entry)
        return log
    except (OSError, SettingsError):
        handle, name = tempfile.mkstemp(prefix="ops-crash-", suffix=".log")
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(entry)
        return Path(name)


def watch_threads(home: str | Path | None, what: str) -> None:
    """Record exceptions that end a thread of this process and report them on stderr, from now on."""

    def ended(thread: threading.ExceptHookArgs) -> None:
        if thread.exc_value is not None and not isinstance(thread.exc_value, SystemExit):
            logs.of(settings.redacted).error(record(thread.exc_value, home, f"a thread of {what}"))

    threading.excepthook = ended

"""Test logging: every handler gets redacted text, stderr gets one line each, and only commands print."""

import errno
import io
import logging
import re
from pathlib import Path

import pytest

from opslib.foundation import logs
from opslib.foundation.config.settings import Settings

SECRET = "s3cr3t/value+of a token"
WRITTEN = ("s3cr3t/value+of a token", "s3cr3t%2Fvalue%2Bof%20a%20token", "s3cr3t%2Fvalue%2Bof+a+token")
PACKAGE = Path(logs.__file__).parent.parent
# Programs that print as their purpose: a terminal channel, the output of a notebook's shell command, processes that
# respond on stdout or simulate an app, and an address whose token is for the player of a game day.
PRINTS = {
    "alerting/notifications/channels.py",
    "jobs/strict_shell.py",
    "simulation/demo_day/evaluator_process.py",
    "simulation/drills/game_day.py",
    "simulation/world/app.py",
    "simulation/world/app_log.py",
    "simulation/world/process.py",
}


class Refusing(io.StringIO):
    """A stderr on a full disk."""

    asked = 0

    def write(self, text: str) -> int:
        """Fail."""
        self.asked += 1
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def log() -> "logging.LoggerAdapter[logging.Logger]":
    """Return the logger for settings with one secret."""
    return logs.of(Settings(Path(), "desk", secrets={"OPS_MASSIVE_TOKEN": SECRET}).redact)


@pytest.mark.parametrize("written", WRITTEN)
def test_a_secret_is_never_shown(
    log: "logging.LoggerAdapter[logging.Logger]",
    written: str,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A secret is redacted on our stderr and for other handlers, in an argument and in a traceback."""
    log.warning("the look at %s failed", f"https://x.example/?key={written}")
    try:
        raise ValueError(f"refused {written}")
    except ValueError:
        log.exception("failed")
    said = capsys.readouterr().err
    assert written not in said + caplog.text and said.count("[OPS_MASSIVE_TOKEN]") == 2
    assert "ValueError: refused [OPS_MASSIVE_TOKEN]" in said and caplog.text.count("[OPS_MASSIVE_TOKEN]") == 2


def test_secrets_of_the_environment_are_redacted_without_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A record without settings is redacted with the secrets of the environment."""
    monkeypatch.setenv("OPS_TRADIER_TOKEN", SECRET)
    logging.getLogger("opslib").error("it said %s", SECRET)
    assert capsys.readouterr().err == "ops: it said [OPS_TRADIER_TOKEN]\n"


def test_a_line_on_stderr_begins_with_the_command(
    log: "logging.LoggerAdapter[logging.Logger]", capsys: pytest.CaptureFixture[str]
) -> None:
    """Control characters are removed; information is shown as well as errors; no line appears twice."""
    logs.to_stderr("ops serve")
    logs.to_stderr("ops serve")
    log.info("listens \x1b[31m\u202e on 100 % of it")
    log.error("the disk is full")
    assert capsys.readouterr().err == "ops serve: listens  on 100 % of it\nops serve: the disk is full\n"


def test_a_closed_stderr_is_not_an_error(
    log: "logging.LoggerAdapter[logging.Logger]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service continues without its stderr."""
    full = Refusing()
    for stderr in (None, full):
        monkeypatch.setattr("sys.stderr", stderr)
        log.warning("nobody hears this")
    assert full.asked == 1


def test_only_commands_print() -> None:
    """Modules below `cli` log instead of printing, except those whose purpose is to print."""
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if re.search(r"(?<![\w.])print\(", path.read_text(encoding="utf-8"))
    }
    assert {name for name in found if not name.startswith("cli/")} == PRINTS

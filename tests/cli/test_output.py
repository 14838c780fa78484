"""Output on a terminal: tables that fit its width, colours, NO_COLOR; completion scripts; help topics."""

import os
import pty
import re
import subprocess
import sys

import pytest

from opslib.cli import output, topics
from opslib.foundation import formatting

SCRIPT = """
from opslib.cli import output
from opslib.foundation import formatting
with output.fitted():
    output.show("critical: the availability of massive is below the threshold that the rules in effect name",
                formatting.table(["severity", "what"], [["warning", "[x] " + "long words " * 12]]))
"""


def on_a_terminal(columns: int, **environ: str) -> str:
    """Run the script above on a pseudo-terminal with that many columns, and return its output."""
    ours, theirs = pty.openpty()
    env = os.environ | {"COLUMNS": str(columns), "TERM": "xterm"} | environ
    env.pop("NO_COLOR", None) if "NO_COLOR" not in environ else None
    running = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=theirs, env=env)
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 65_536):
            written += part
    except OSError:  # The other end is closed.
        pass
    finally:
        os.close(ours)
    assert running.wait(60) == 0
    return written.decode()


@pytest.mark.parametrize("columns", [40, 80, 140])
def test_lines_fit_the_terminal(columns: int) -> None:
    """No line is longer than the terminal, and no word is lost."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal(columns))
    assert max(len(line) for line in plain.splitlines()) <= columns
    assert plain.split().count("long") == 12 and "[x]" in plain and "in effect name" in " ".join(plain.split())


def test_states_are_coloured_unless_colour_is_off() -> None:
    """A severity is coloured on a terminal; NO_COLOR and a dumb terminal switch it off."""
    assert "\x1b[31mcritical\x1b[0m: the availability" in on_a_terminal(140)
    assert "\x1b[33mwarning" in on_a_terminal(140)
    assert "\x1b[" not in on_a_terminal(140, NO_COLOR="1") + on_a_terminal(140, TERM="dumb")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("demo: warning (worst severity: notify)", ["warning", "notify"]),
        ("notify since 15:13, problem began 13:50 New York: backtest variance", ["notify"]),
        ("warning pending since 15:13 New York: a warning of critical things", ["warning"]),
    ],
)
def test_a_severity_is_coloured_beside_its_verdict_and_its_time(line: str, words: list[str]) -> None:
    """In the first line and the alerts of `ops status`, only the severities are coloured."""
    assert [found.strip() for found in output._STATE.findall(line)] == words


def test_a_pipe_gets_plain_text() -> None:
    """Without a terminal, tables are as wide as their cells, and nothing is coloured or wrapped."""
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert len(ended.stdout.splitlines()) == 3 and "\x1b" not in ended.stdout
    assert formatting.LINE_WIDTH.get() is None


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_know_the_commands(shell: str) -> None:
    """The script names commands and options; bash accepts it and completes a command."""
    ended = subprocess.run(
        [sys.executable, "-m", "opslib.cli", "completion", shell], capture_output=True, text=True, check=True
    )
    assert all(word in ended.stdout for word in ("postmortem", "checklist", "as-of", "window"))
    if shell == "bash":
        typed = f'{ended.stdout}\nCOMP_WORDS=(ops stat); COMP_CWORD=1; _shtab_ops; echo "${{COMPREPLY[@]}}"'
        found = subprocess.run(["bash", "-c", typed], capture_output=True, text=True)
        assert found.stdout.split() == ["status"], found.stderr


@pytest.mark.parametrize("topic", topics.names())
def test_every_help_topic_is_printed(topic: str) -> None:
    """`ops help TOPIC` prints the reference page, which begins with its title."""
    ended = subprocess.run(
        [sys.executable, "-m", "opslib.cli", "help", topic], capture_output=True, text=True, check=True
    )
    assert ended.stdout == topics.text(topic) and ended.stdout.startswith("# ")


@pytest.mark.parametrize("columns", [40, 80])
def test_a_table_fits_before_it_is_printed(columns: int) -> None:
    """A table is fitted to the width when it is built, so its rows are not wrapped like prose."""
    token = formatting.LINE_WIDTH.set(columns)
    try:
        made = formatting.table(["severity", "what"], [["warning", "long words " * 12], ["notify", "short"]])
    finally:
        formatting.LINE_WIDTH.reset(token)
    lines = made.splitlines()
    assert max(len(line) for line in lines) <= columns
    assert {len(line) - len(line.lstrip()) for line in lines[2:-1]} == {len("severity") + 2}

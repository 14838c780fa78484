"""Test hooks, as real processes with children: time limits, ending all their processes, and the output that is kept."""

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from opslib.foundation.config import settings
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import SettingsError
from opslib.runbooks import hooks
from opslib.runbooks.hooks import Hook

TOKEN = "tok-hook-0123456789"
FOUND = Settings(Path("/nowhere"), "desk", secrets={"OPS_MASSIVE_TOKEN": TOKEN})
# Three kinds of children: in the group, ignoring SIGTERM, and in their own session; each writes its process
# ID to a file.
FAMILY = """
import os, signal, subprocess, sys, time
place = sys.argv[1]
def told(name):
    with open(os.path.join(place, name + ".new"), "w") as to:
        to.write(str(os.getpid()))
    os.rename(os.path.join(place, name + ".new"), os.path.join(place, name))
if len(sys.argv) == 2:
    for name in ("child", "stubborn", "apart"):
        subprocess.Popen([sys.executable, __file__, place, name], start_new_session=name == "apart")
    told("leader")
    print("the build goes on", flush=True)
else:
    if sys.argv[2] == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    told(sys.argv[2])
while True:
    time.sleep(60)
"""


def command(folder: Path, body: str, name: str = "hook.py") -> tuple[str, ...]:
    """Return a command that runs this Python code."""
    (folder / name).write_text(body)
    return sys.executable, str(folder / name)


def ran(hook: Hook) -> hooks.Outcome:
    return hooks.run(hook, {"id": "x/1"}, FOUND)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def awaited(true: object, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def family(folder: Path) -> list[int]:
    """Return the process IDs of a hook and its children, once all of them run."""
    names = ("leader", "child", "stubborn", "apart")
    awaited(lambda: all((folder / name).exists() for name in names))
    return [int((folder / name).read_text()) for name in names]


def test_a_hook_above_its_time_limit_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    After the time limit all its processes are ended, whether they ignore SIGTERM or have their own session.

    The output so far is kept.
    """
    monkeypatch.setattr(hooks, "ENDING_S", 1.0)
    real = hooks._awaited

    def once_all_run(process: subprocess.Popen, timeout_s: float, printed: object) -> str:
        family(tmp_path)  # On a busy machine they may take longer to start than the time limit.
        return real(process, timeout_s, printed)

    monkeypatch.setattr(hooks, "_awaited", once_all_run)
    found = ran(Hook("build", (*command(tmp_path, FAMILY), str(tmp_path)), timedelta(seconds=1)))
    assert (
        found.state == "failed"
        and "took longer than 1 s and was ended with all its processes" in found.words
        and "the build goes on" in found.words
    )
    assert found.output == "the build goes on"
    awaited(lambda: not [pid for pid in family(tmp_path) if alive(pid)])


def test_an_interrupt_ends_the_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    If the kernel or terminal is interrupted while a hook runs, all its processes are ended.

    The interrupt is raised again.
    """
    monkeypatch.setattr(hooks, "ENDING_S", 1.0)
    interrupting = threading.Thread(target=lambda: (family(tmp_path), os.kill(os.getpid(), signal.SIGINT)))
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        ran(Hook("build", (*command(tmp_path, FAMILY), str(tmp_path))))
    interrupting.join()
    awaited(lambda: not [pid for pid in family(tmp_path) if alive(pid)])


def test_a_server_started_by_a_hook_keeps_running(tmp_path: Path) -> None:
    """A process that a hook leaves running on purpose is neither awaited nor ended."""
    body = (
        "import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', 'import time; "
        "time.sleep(600)'])\nprint(child.pid)"
    )
    found = ran(Hook("start_staging", command(tmp_path, body)))
    pid = int(found.output)
    try:
        assert (found.state, alive(pid)) == ("done", True)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_default_time_limits(tmp_path: Path) -> None:
    """A build has 15 minutes, a notification two; the settings can change each, with or without a command."""
    usual = {name: Hook(name).timeout_s for name in hooks.HOOKS}
    assert (
        usual["build"] == usual["test_integration"] == usual["deploy"] == 900
        and usual["restart_app"] == 300
        and usual["tell_channel"] == usual["push_tag"] == 120
    )
    (tmp_path / "settings.toml").write_text(
        '[hooks]\nbuild = ["make"]\n[hooks.timeouts]\nbuild = "40m"\ntell_channel = "10s"\n'
    )
    found = hooks.read(settings.Settings(tmp_path, "desk"))
    assert (found["build"].timeout_s, found["tell_channel"].timeout_s, found["deploy"].timeout_s) == (2400, 10, 900)
    assert found["build"].words.endswith("make; timeout 40 min")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('[hooks.timeouts]\nbiuld = "1m"', "there is no key 'biuld'.*Did you mean 'build'"),
        ("[hooks.timeouts]\nbuild = 40", "build is 40; a span"),
        ('[hooks.timeouts]\nbuild = "0s"', "build is '0s'; a span"),
        ('[hooks.timeouts]\nbuild = "25h"', "at most 24h"),
        ("[hooks]\ntimeouts = 3", "timeouts is 3; a table"),
    ],
)
def test_invalid_time_limits(tmp_path: Path, content: str, named: str) -> None:
    """An unknown hook or an invalid time span is rejected by name."""
    (tmp_path / "settings.toml").write_text(content)
    with pytest.raises(SettingsError, match=named):
        hooks.read(settings.Settings(tmp_path, "desk"))


def test_output_is_kept_without_secrets(tmp_path: Path) -> None:
    """Stdout and stderr are kept in order, without secrets and colours; of long output only the head and the tail."""
    found = ran(
        Hook(
            "build",
            command(
                tmp_path,
                f"import sys\nprint('\\x1b[32mbegins\\x1b[0m with {TOKEN}', flush=True)\nprint('a warning', "
                f"file=sys.stderr, flush=True)\nprint('ends')\nsys.exit(3)",
            ),
        )
    )
    assert (found.state, found.output) == (
        "failed",
        "begins with [OPS_MASSIVE_TOKEN]\na warning\nends",
    ) and found.words.startswith("exit 3: begins with")
    for lines in (1_500, 30_000):
        found = ran(Hook("build", command(tmp_path, f"for n in range({lines}):\n    print('line', n, '{TOKEN}')")))
        assert (
            found.state == "done"
            and found.output.startswith("line 0 [OPS_MASSIVE_TOKEN]\n")
            and found.output.endswith(f"line {lines - 1} [OPS_MASSIVE_TOKEN]")
        )
        assert (
            TOKEN not in found.output
            and "omitted" in found.output
            and len(found.output) < hooks.KEPT_HEAD + hooks.KEPT_TAIL + 200
        )


def test_a_hook_with_endless_output_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that prints more than the limit is ended before its time limit."""
    monkeypatch.setattr(hooks, "MOST_PRINTED", 2**20)
    found = ran(Hook("build", command(tmp_path, "import time\nprint('x' * 2**21, flush=True)\ntime.sleep(600)")))
    assert found.state == "failed" and "printed more than 1 MB and was ended" in found.words


def test_a_missing_command_and_the_request(tmp_path: Path) -> None:
    """A missing command is reported. A command gets its request on stdin, of any length, and need not read it."""
    assert (
        ran(Hook("build", ("/nowhere/make",))).words == "/nowhere/make could not be started (No such file or directory)"
    )
    asked = {"id": "x/1", "says": "w" * 200_000}
    heard = command(tmp_path, "import json, sys\nprint(len(json.load(sys.stdin)['says']))")
    assert hooks.run(Hook("tell_channel", heard), asked, FOUND).output == "200000"
    assert hooks.run(Hook("tell_channel", command(tmp_path, "print('deaf')", "deaf.py")), asked, FOUND).state == "done"

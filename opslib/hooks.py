"""
This module knows how a step that changes the world reaches it, and nothing else: by a hook of the desk's own settings, or,
where none is set, by a rehearsal that changes nothing.

``[hooks]`` in ``settings.toml`` names for each of `HOOKS` a command, as a list; ``tell_channel`` and ``silence`` may also
be ``"built-in"``, which is our own channels and our own silences. A command gets what is asked of it as JSON on its stdin,
with an id that is the same for the same act; exit 0 says that it was done.
"""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opslib import text
from opslib.errors import SettingsError
from opslib.settings import Settings, toml

REHEARSAL, BUILT_IN = "rehearsal", "built-in"
BUILT_IN_ONES = ("tell_channel", "silence")
HOOKS = {
    "tell_channel": "tell the people of the channel",
    "silence": "keep its alerts quiet for a while",
    "tradier_only": "switch the app to Tradier only",
    "restart_app": "restart the app's server",
    "restart_socket": "restart the WebSocket service",
    "roll_back": "roll the last deployment back",
    "status_page": "update our status page",
    "open_ticket": "open a ticket with the vendor",
    "restart_monitor": "start the collector again",
    # What the guide runs in the app's own repository: the checklists need them.
    "test_monitoring": "run the app's monitoring tests",
    "test_integration": "run the app's integration tests",
    "push_branch": "push the release's branch",
    "build": "build the app",
    "start_staging": "start the staging server",
    "cut_branch": "cut the release branch",
    "merge_branch": "merge the monitoring branch into the release branch",
    "set_version": "raise the version number of the app",
    "make_tag": "make the annotated tag of the release",
    "push_tag": "push the tag of the release",
    "deploy": "deploy the release",
    "raise_error": "raise one error in the app, on purpose",
}
PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Hook:
    """
    One way to change the world.

    Attributes:
        how: ``rehearsal``, ``built-in``, or the command.
    """

    name: str
    how: str | tuple[str, ...] = REHEARSAL

    @property
    def real(self) -> bool:
        """Does it change anything?"""
        return self.how != REHEARSAL

    @property
    def words(self) -> str:
        """What it will do, for who is about to do it."""
        if not self.real:
            return f"a rehearsal: nothing is changed, since no hook is set to {HOOKS[self.name]} (settings.toml, [hooks], {self.name})"
        return f"{HOOKS[self.name]}, by {'our own means' if self.how == BUILT_IN else 'the command: ' + ' '.join(self.how)}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an act ended: done, failed or rehearsed; and in words."""

    state: str
    words: str


def read(settings: Settings) -> dict[str, Hook]:
    """
    Every hook, as ``settings.toml`` has it; a rehearsal where it says nothing.

    Raises:
        SettingsError: It names a hook that is none, or something that is neither a command nor ``built-in``.
    """
    path = settings.base / "settings.toml"
    found = toml(path).get("hooks", {})
    hooks = {name: Hook(name) for name in HOOKS}
    for name, how in found.items():
        if name not in HOOKS:
            raise SettingsError(f"{path}, hooks: there is no hook {name!r}; there are: {', '.join(HOOKS)}.{text.nearest(name, HOOKS)}")
        command = isinstance(how, list) and how and all(isinstance(part, str) and part for part in how)
        if not command and not (how == REHEARSAL or (how == BUILT_IN and name in BUILT_IN_ONES)):
            raise SettingsError(f"{path}, hooks: {name} is {how!r}; a command as a list, {REHEARSAL!r}{' or ' + repr(BUILT_IN) if name in BUILT_IN_ONES else ''} was wanted.")
        hooks[name] = Hook(name, tuple(how) if command else how)
    return hooks


def run(hook: Hook, asked: Mapping[str, Any], settings: Settings) -> Outcome:
    """
    Run a hook's command, once; it does not come back before the command has ended, or was killed for taking too long.

    Args:
        asked: id, incident, runbook, step, operator, and what the step has filled in.
    """
    if not hook.real:
        return Outcome("rehearsed", f"rehearsed, nothing was changed: it would {HOOKS[hook.name]}")
    assert isinstance(hook.how, tuple)
    try:
        ended = subprocess.run(hook.how, input=settings.redact(json.dumps(dict(asked), sort_keys=True)), capture_output=True, text=True, errors="replace", timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        return Outcome("failed", f"{hook.how[0]} took longer than {text.duration(PATIENCE_S)} and was ended: look whether it did something")
    except OSError as problem:
        return Outcome("failed", f"{hook.how[0]} cannot be run ({problem.strerror})")
    said = text.one_line(settings.redact((ended.stdout.strip() or ended.stderr.strip())[-500:]), 300)
    if ended.returncode:
        return Outcome("failed", f"exit {ended.returncode}{': ' + said if said else ''}")
    return Outcome("done", f"done{': ' + said if said else ''}")

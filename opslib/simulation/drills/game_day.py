"""
Run a game day: a fault appears in a running world, a person finds it, and a debrief says how long that took.

The world is told what becomes the matter in a code of its seed's, so nothing that the person can look at names it.
"""

import contextlib
import json
import os
import random
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from opslib.alerting.causes import CAUSES, HEADLINES
from opslib.dashboard import alert_log
from opslib.foundation import clock, formatting
from opslib.foundation.config import settings as settings_module
from opslib.foundation.config.workspace import Workspace
from opslib.foundation.errors import OpsError, UsageError
from opslib.foundation.network import free_port
from opslib.incidents import lifecycle
from opslib.jobs import jupyterlab
from opslib.runbooks import catalog
from opslib.runbooks.diagnosis import diagnosis
from opslib.simulation.drills.scenarios import FAULTS, Scenario
from opslib.simulation.drills.stepped_desk import BEGINS
from opslib.simulation.world.control import World
from opslib.simulation.world.faults import OURS

ANY, GIVES_UP, LISTS = "any", "give up", "?"
FIRST_S, LAST_S = 120.0, 480.0  # It begins between these, in seconds of the world: long enough to see what is normal.
UP_S = 30.0
FOLDER = "game_days"
SHOWN_KINDS = ("opened", "acknowledged", "runbook", "step", "diagnosis", "note", "mitigated", "resolved", "dismissed")


class Said(NamedTuple):
    """What the person said it is, how many seconds of the world after it began, and whether that is right."""

    cause: str
    after_s: float
    right: bool


class Result(NamedTuple):
    """
    What came of a game day.

    Attributes:
        values: For programs.
        words: For people.
        done: Whether the fault was found.
    """

    values: Any
    words: str
    done: bool


@dataclass
class GameDay:
    """
    One game day.

    Attributes:
        trial: What becomes the matter.
        seed: Of the world.
        home: Where the person's desk is.
        by: Who plays.
        begun: World time at which it became the matter; None before.
        said: What the person said, in order.
    """

    trial: Scenario
    seed: int
    home: Path
    by: str
    begun: datetime | None = None
    said: list[Said] = field(default_factory=list)

    @property
    def found(self) -> Said | None:
        """The right answer, once it was given."""
        return next((s for s in self.said if s.right), None)

    def hear(self, cause: str, now: datetime) -> Said:
        """The person says what it is; before it began nothing is right."""
        after_s = (now - self.begun).total_seconds() if self.begun else -1.0
        self.said.append(Said(cause, after_s, self.begun is not None and cause in self.trial.causes))
        return self.said[-1]


@contextlib.contextmanager
def _running(commands: Sequence[Sequence[str]], environ: Mapping[str, str], folder: Path) -> Iterator[None]:
    """Processes that run for as long as this is entered; what they print goes into files of that folder."""
    with contextlib.ExitStack() as open_files:
        running = []
        for command in commands:
            name = next((part for part in command if part in ("serve", "collect")), "lab")
            out = open_files.enter_context((folder / f"{name}.log").open("wb"))
            running.append(
                subprocess.Popen(
                    [sys.executable, *command],
                    env=dict(environ),
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                )
            )
        try:
            yield
        finally:
            for process in running:
                process.terminate()
            for process in running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                process.kill()
                process.wait()


def asked(
    options: Any,
    say: Callable[[str], None],
    hear: Callable[[str], str] = input,
    instead: Sequence[str] = (),
    speed: float = 1.0,
    first_s: float = FIRST_S,
    last_s: float = LAST_S,
) -> Result:
    """
    Play a game day, to the answer or until the person gives up.

    Args:
        hear: Asks the person in the terminal.
        instead: The arguments of Python for what is begun instead of JupyterLab; nothing is that it is begun.
        speed: World seconds a second.
        first_s, last_s: It begins between these, in seconds of the world.

    Raises:
        UsageError: There is no such fault.
    """
    names = [name for name, trial in FAULTS.items() if trial.looked_at and not trial.fills and name not in OURS]
    if options.live not in (ANY, *names):
        raise UsageError(
            f"there is no fault {options.live!r} for a game day.{formatting.nearest(options.live, (ANY, *names))} "
            f"{ANY} is one that nobody chose."
        )
    if options.live == ANY and not options.secret:
        raise UsageError(f"--live {ANY} is one that nobody knows: it goes with --secret.")
    chance = random.SystemRandom()
    name = chance.choice(names) if options.live == ANY else options.live
    seed = options.seed[0] if options.seed else secrets.randbelow(10**6)
    settings = settings_module.load(options.home, options.app)
    stamp = f"{clock.now().astimezone(formatting.NEW_YORK):%Y-%m-%d-%H%M%S}"
    folder = settings.outputs / FOLDER / stamp
    folder.mkdir(parents=True)
    played = GameDay(FAULTS[name], seed, folder / "home", options.by or "")
    say("starting a world of its own: an app, Massive, Tradier, a page, a receiver, a collector")
    with _at_world(played, instead, speed) as (lever, environ, address):
        say(_how(played, options.secret, environ))
        print(address, file=sys.stderr, flush=True)  # Its token is for who plays; messages would leave it out.
        beginning = threading.Thread(
            target=_begin,
            args=(played, lever, chance.uniform(first_s, last_s) / speed, ended := threading.Event()),
            daemon=True,
        )
        beginning.start()
        try:
            _play(played, lever, hear, say)
        finally:
            ended.set()
            beginning.join()
        values = _debriefed(played, environ, lever.now())
    words = _words(played, values)
    (folder / "debrief.md").write_text(words + "\n", encoding="utf-8")
    (folder / "debrief.json").write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return Result(values, f"{words}\n\nkept in {folder / 'debrief.md'}", played.found is not None)


@contextlib.contextmanager
def _at_world(played: GameDay, instead: Sequence[str], speed: float) -> Iterator[tuple[World, dict[str, str], str]]:
    """A world with a desk at it, and JupyterLab; how to reach them, and where that is."""
    port, lab_port = free_port(), free_port()
    played.home.mkdir()
    with World(BEGINS, seed=played.seed, speed=speed, receiver=f"http://127.0.0.1:{port}") as lever:
        mine = {k: v for k, v in os.environ.items() if not k.startswith("OPS_")}
        workspace = settings_module.load(played.home, "desk", mine | lever.environ)
        place = jupyterlab.prepare(workspace, mine | lever.environ, catalog.titles())
        ops = ("-m", "opslib.cli")
        commands = [
            (*ops, "serve", "--port", str(port)),
            (*ops, "collect"),
            instead or place.lab(lab_port, sys.stdin.isatty())[1:],
        ]
        with _running(commands, place.environ, played.home.parent):
            _wait_for(played.home / "store.sqlite")
            yield lever, place.environ, place.address("lab", lab_port)


def _wait_for(store: Path) -> None:
    until_s = time.monotonic() + UP_S
    while not store.exists() and time.monotonic() < until_s:
        time.sleep(0.1)  # Another process makes it.
    if not store.exists():
        raise OpsError(
            f"the desk of the game day did not come up within {UP_S:.0f} s; {store.parent.parent} has what it said."
        )


def _how(played: GameDay, secret: bool, environ: Mapping[str, str]) -> str:
    """What the person is told before it begins."""
    what = "Something" if secret else f"{played.trial.name}"
    return "\n".join(
        [
            f"{what} will become the matter within some minutes. The world's time is "
            f"{formatting.moment(BEGINS)} and on.",
            "JupyterLab is opening, at the address below. A terminal in it (File, New, Terminal) knows this world:",
            "    ops status; ops incident list; ops runbook open NAME --by YOU; ops doctor",
            f"This desk is in {environ['OPS_HOME']}.",
            f"When you know what it is, say its cause here; {LISTS} lists the causes, {GIVES_UP!r} ends it.",
        ]
    )


def _begin(played: GameDay, lever: World, after_s: float, ended: threading.Event) -> None:
    if not ended.wait(after_s):
        began = lever.now()
        lever.be(**{name: share for _, active in played.trial.acts for name, share in active.items()})
        played.begun = began


def _play(played: GameDay, lever: World, hear: Callable[[str], str], say: Callable[[str], None]) -> None:
    """Hear what the person says, until it is right or they give up; the end of what can be read is giving up."""
    while played.found is None:
        try:
            told = hear("cause? ").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if told == GIVES_UP:
            return
        if told == LISTS:
            words = {cause: HEADLINES[cause].format("the provider") for cause in CAUSES}
            say("\n".join(f"  {cause}: {told[0].upper()}{told[1:]}" for cause, told in words.items()))
        elif told not in CAUSES:
            say(f"there is no cause {told!r}.{formatting.nearest(told, CAUSES)} {LISTS} lists them.")
        elif not played.hear(told, lever.now()).right:
            say("That is not it, or not yet. Look on.")


def _debriefed(played: GameDay, environ: Mapping[str, str], now: datetime) -> dict[str, Any]:
    """What the store of the desk knows of it, and when, in seconds of the world after it began."""
    workspace = Workspace(settings_module.load(played.home, "desk", dict(environ)), lambda: now)
    with contextlib.closing(workspace.store):
        begun_us = clock.micros(played.begun or now)

        def after(at_us: int) -> float:
            return round((at_us - begun_us) / 1e6, 1)

        rises = [
            r
            for r in alert_log.log_of(workspace, now, since=BEGINS, replay=True).rises
            if r.sent and r.fired_us >= begun_us
        ]
        lifecycle.of(workspace).follow_alerts()
        done = [
            {"after_s": after(e.at_us), "kind": e.kind, "by": e.by or None, "words": e.body.get("words", e.kind)}
            for i in lifecycle.of(workspace).all()
            for e in i.entries
            if e.kind in SHOWN_KINDS and e.at_us >= begun_us
        ]
        found = diagnosis.diagnose_at(workspace, now, timedelta(minutes=5))
    return {
        "fault": played.trial.name,
        "seed": played.seed,
        "by": played.by or None,
        "begun": formatting.iso(played.begun) if played.begun else None,
        "expected": list(played.trial.causes),
        "found_after_s": played.found.after_s if played.found else None,
        "said": [s._asdict() for s in played.said],
        "told_after_s": after(rises[0].fired_us) if rises else None,
        "told": [{"after_s": after(r.fired_us), "severity": r.severity, "words": r.sentence} for r in rises],
        "done": sorted(done, key=lambda d: d["after_s"]),
        "suite": found.words,
    }


def _words(played: GameDay, values: Mapping[str, Any]) -> str:
    """The debrief."""

    def after(seconds: float | None) -> str:
        return formatting.UNKNOWN if seconds is None else formatting.duration(max(0.0, seconds))

    found = f"found after {after(values['found_after_s'])}" if played.found else "not found"
    began = f"it began at {formatting.moment(played.begun)}" if played.begun else "it had not begun"
    lines = [
        f"# Game day: {played.trial.name}",
        "",
        f"{began}; {found}; somebody was told after {after(values['told_after_s'])}. Expected: "
        f"{', '.join(played.trial.causes)}.",
        "",
        "## What was said",
        "",
    ]
    lines += [
        f"- after {after(s.after_s) if s.after_s >= 0 else 'less than nothing: before it began'}: {s.cause}"
        f"{' (right)' if s.right else ''}"
        for s in played.said
    ] or ["- nothing"]
    lines += [
        "",
        "## What people were told",
        "",
        *(
            [
                f"- after {after(t['after_s'])}: {t['severity']}: {formatting.in_markdown(t['words'])}"
                for t in values["told"]
            ]
            or ["- nothing"]
        ),
    ]
    lines += [
        "",
        "## What was done",
        "",
        *(
            [
                f"- after {after(d['after_s'])}: {d['kind']}: {formatting.in_markdown(str(d['words']))}"
                for d in values["done"]
            ]
            or ["- nothing that is on record"]
        ),
    ]
    lines += [
        "",
        "## What the suite says at the end",
        "",
        formatting.in_markdown(values["suite"]),
        "",
        "## To talk over",
        "",
        "- What led to the answer, what led away from it?",
        "- What would have been seen sooner, and where?",
        "- What is to change in the runbook? Freeze it as a case: `ops postmortem ID --freeze`.",
    ]
    return "\n".join(lines)

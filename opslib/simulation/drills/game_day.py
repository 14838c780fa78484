"""
Run a game day: inject a fault into a running world, let a person diagnose it, and write a debrief with the times.

The fault is sent to the world in a code that depends on the seed, so nothing that the person can open names it.
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
FIRST_S, LAST_S = (
    120.0,
    480.0,
)  # The fault begins between these world seconds, so that normal operation is visible first.
UP_S = 30.0
FOLDER = "game_days"
SHOWN_KINDS = ("opened", "acknowledged", "runbook", "step", "diagnosis", "note", "mitigated", "resolved", "dismissed")


class Answer(NamedTuple):
    """A cause that the person entered, the world seconds since the fault began, and whether the cause is right."""

    cause: str
    after_s: float
    right: bool


class Result(NamedTuple):
    """
    The result of a game day.

    Attributes:
        values: The debrief as JSON.
        words: The debrief as text.
        done: Whether the person found the cause.
    """

    values: Any
    words: str
    done: bool


@dataclass
class GameDay:
    """
    One game day.

    Attributes:
        scenario: The fault that is injected.
        seed: Seed of the world.
        home: Home directory of the person.
        by: Name of the person.
        begun: World time at which the fault was injected; None before.
        answers: The causes that the person entered, in order.
    """

    scenario: Scenario
    seed: int
    home: Path
    by: str
    begun: datetime | None = None
    answers: list[Answer] = field(default_factory=list)

    @property
    def found(self) -> Answer | None:
        """The right answer; None until it is given."""
        return next((a for a in self.answers if a.right), None)

    def record_answer(self, cause: str, now: datetime) -> Answer:
        """Record the cause that the person entered; before the fault began no answer is right."""
        after_s = (now - self.begun).total_seconds() if self.begun else -1.0
        self.answers.append(Answer(cause, after_s, self.begun is not None and cause in self.scenario.causes))
        return self.answers[-1]


@contextlib.contextmanager
def _running(commands: Sequence[Sequence[str]], environ: Mapping[str, str], folder: Path) -> Iterator[None]:
    """Run processes while the context is active; their output goes to files in a folder."""
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


def play(
    options: Any,
    say: Callable[[str], None],
    prompt: Callable[[str], str] = input,
    instead_of_lab: Sequence[str] = (),
    speed: float = 1.0,
    first_s: float = FIRST_S,
    last_s: float = LAST_S,
) -> Result:
    """
    Play a game day until the right answer or until the person gives up.

    Args:
        prompt: Asks the person in the terminal.
        instead_of_lab: Arguments of a Python process to start instead of JupyterLab; if empty, JupyterLab starts.
        speed: World seconds per real second.
        first_s, last_s: The fault begins between these world seconds.

    Raises:
        UsageError: The fault is unknown, or `any` was chosen without --secret.
    """
    names = [name for name, scenario in FAULTS.items() if scenario.probed and not scenario.fills and name not in OURS]
    if options.live not in (ANY, *names):
        raise UsageError(
            f"unknown fault for a game day: {options.live!r}.{formatting.nearest(options.live, (ANY, *names))} "
            f"Use {ANY} for a random fault."
        )
    if options.live == ANY and not options.secret:
        raise UsageError(f"--live {ANY} injects a random fault. Add --secret.")
    chance = random.SystemRandom()
    name = chance.choice(names) if options.live == ANY else options.live
    seed = options.seed[0] if options.seed else secrets.randbelow(10**6)
    settings = settings_module.load(options.home, options.app)
    stamp = f"{clock.now().astimezone(formatting.NEW_YORK):%Y-%m-%d-%H%M%S}"
    folder = settings.outputs / FOLDER / stamp
    folder.mkdir(parents=True)
    played = GameDay(FAULTS[name], seed, folder / "home", options.by or "")
    say("starting a simulated world: app, Massive, Tradier, page, receiver, collector")
    with _at_world(played, instead_of_lab, speed) as (world, environ, address):
        say(_how(played, options.secret, environ))
        print(address, file=sys.stderr, flush=True)  # Printed directly, since messages would redact its token.
        beginning = threading.Thread(
            target=_begin,
            args=(played, world, chance.uniform(first_s, last_s) / speed, ended := threading.Event()),
            daemon=True,
        )
        beginning.start()
        try:
            _ask(played, world, prompt, say)
        finally:
            ended.set()
            beginning.join()
        values = _debriefed(played, environ, world.now())
    words = _words(played, values)
    (folder / "debrief.md").write_text(words + "\n", encoding="utf-8")
    (folder / "debrief.json").write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return Result(values, f"{words}\n\nsaved in {folder / 'debrief.md'}", played.found is not None)


@contextlib.contextmanager
def _at_world(
    played: GameDay, instead_of_lab: Sequence[str], speed: float
) -> Iterator[tuple[World, dict[str, str], str]]:
    """Start a world, what monitors it, and JupyterLab; yield the world, the environment and JupyterLab's address."""
    port, lab_port = free_port(), free_port()
    played.home.mkdir()
    with World(BEGINS, seed=played.seed, speed=speed, receiver=f"http://127.0.0.1:{port}") as world:
        mine = {k: v for k, v in os.environ.items() if not k.startswith("OPS_")}
        workspace = settings_module.load(played.home, "desk", mine | world.environ)
        place = jupyterlab.prepare(workspace, mine | world.environ, catalog.titles())
        ops = ("-m", "opslib.cli")
        commands = [
            (*ops, "serve", "--port", str(port)),
            (*ops, "collect"),
            instead_of_lab or place.lab(lab_port, sys.stdin.isatty())[1:],
        ]
        with _running(commands, place.environ, played.home.parent):
            _wait_for(played.home / "store.sqlite")
            yield world, place.environ, place.address("lab", lab_port)


def _wait_for(store: Path) -> None:
    until_s = time.monotonic() + UP_S
    while not store.exists() and time.monotonic() < until_s:
        time.sleep(0.1)  # Another process creates it.
    if not store.exists():
        raise OpsError(
            f"The receiver of the game day did not start within {UP_S:.0f} s. Read the logs in {store.parent.parent}."
        )


def _how(played: GameDay, secret: bool, environ: Mapping[str, str]) -> str:
    """Return the instructions for the person."""
    what = "A fault" if secret else f"The fault {played.scenario.name}"
    return "\n".join(
        [
            f"{what} will be injected within a few minutes. The world's time starts at {formatting.moment(BEGINS)}.",
            "JupyterLab is starting at the address below. Its terminal (File, New, Terminal) is set up for this world:",
            "    ops status; ops incident list; ops runbook open NAME --by YOU; ops doctor",
            f"Home directory: {environ['OPS_HOME']}",
            f"When you know the cause, enter it here. Enter {LISTS} to list the causes, {GIVES_UP!r} to stop.",
        ]
    )


def _begin(played: GameDay, world: World, after_s: float, ended: threading.Event) -> None:
    if not ended.wait(after_s):
        began = world.now()
        world.inject(**{name: share for _, active in played.scenario.acts for name, share in active.items()})
        played.begun = began


def _ask(played: GameDay, world: World, prompt: Callable[[str], str], say: Callable[[str], None]) -> None:
    """Ask for the cause until the answer is right or the person gives up; end of input counts as giving up."""
    while played.found is None:
        try:
            entered = prompt("cause? ").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if entered == GIVES_UP:
            return
        if entered == LISTS:
            headlines = {cause: HEADLINES[cause].format("the provider") for cause in CAUSES}
            say("\n".join(f"  {cause}: {words[0].upper()}{words[1:]}" for cause, words in headlines.items()))
        elif entered not in CAUSES:
            say(f"Unknown cause: {entered!r}.{formatting.nearest(entered, CAUSES)} Enter {LISTS} to list the causes.")
        elif not played.record_answer(entered, world.now()).right:
            say("Wrong, or the fault has not begun yet. Continue.")


def _debriefed(played: GameDay, environ: Mapping[str, str], now: datetime) -> dict[str, Any]:
    """Return the debrief as JSON, from the database; times are world seconds since the fault began."""
    workspace = Workspace(settings_module.load(played.home, "desk", dict(environ)), lambda: now)
    with contextlib.closing(workspace.store):
        begun_us = clock.micros(played.begun or now)

        def after(at_us: int) -> float:
            return round((at_us - begun_us) / 1e6, 1)

        notifications = [
            r
            for r in alert_log.log_of(workspace, now, since=BEGINS, replay=True).changes
            if r.sent and r.fired_us >= begun_us
        ]
        lifecycle.of(workspace).follow_alerts()
        actions = [
            {"after_s": after(e.at_us), "kind": e.kind, "by": e.by or None, "words": e.body.get("words", e.kind)}
            for i in lifecycle.of(workspace).all()
            for e in i.entries
            if e.kind in SHOWN_KINDS and e.at_us >= begun_us
        ]
        found = diagnosis.diagnose_at(workspace, now, timedelta(minutes=5))
    return {
        "fault": played.scenario.name,
        "seed": played.seed,
        "by": played.by or None,
        "begun": formatting.iso(played.begun) if played.begun else None,
        "expected": list(played.scenario.causes),
        "found_after_s": played.found.after_s if played.found else None,
        "answers": [a._asdict() for a in played.answers],
        "notified_after_s": after(notifications[0].fired_us) if notifications else None,
        "notifications": [
            {"after_s": after(r.fired_us), "severity": r.severity, "words": r.sentence} for r in notifications
        ],
        "actions": sorted(actions, key=lambda a: a["after_s"]),
        "diagnosis": found.words,
    }


def _words(played: GameDay, values: Mapping[str, Any]) -> str:
    """Return the debrief as Markdown."""

    def after(seconds: float | None) -> str:
        return formatting.UNKNOWN if seconds is None else formatting.duration(max(0.0, seconds))

    found = f"cause found after {after(values['found_after_s'])}" if played.found else "cause not found"
    began = f"The fault began at {formatting.moment(played.begun)}" if played.begun else "The fault had not begun"
    lines = [
        f"# Game day: {played.scenario.name}",
        "",
        f"{began}; {found}; first notification after {after(values['notified_after_s'])}. "
        f"Expected cause: {' or '.join(played.scenario.causes)}.",
        "",
        "## Answers",
        "",
    ]
    lines += [
        f"- {f'after {after(a.after_s)}' if a.after_s >= 0 else 'before the fault began'}: {a.cause}"
        f" ({'right' if a.right else 'wrong'})"
        for a in played.answers
    ] or ["- none"]
    lines += [
        "",
        "## Notifications",
        "",
        *(
            [
                f"- after {after(n['after_s'])}: {n['severity']}: {formatting.in_markdown(n['words'])}"
                for n in values["notifications"]
            ]
            or ["- none"]
        ),
    ]
    lines += [
        "",
        "## Actions",
        "",
        *(
            [
                f"- after {after(a['after_s'])}: {a['kind']}: {formatting.in_markdown(str(a['words']))}"
                for a in values["actions"]
            ]
            or ["- none recorded"]
        ),
    ]
    lines += [
        "",
        "## Diagnosis by ops at the end",
        "",
        formatting.in_markdown(values["diagnosis"]),
        "",
        "## Points to discuss",
        "",
        "- Which evidence led to the cause, and which was misleading?",
        "- Which evidence was available earlier, and where?",
        "- What should change in the runbook? Freeze the incident as a regression case: `ops postmortem ID --freeze`.",
    ]
    return "\n".join(lines)

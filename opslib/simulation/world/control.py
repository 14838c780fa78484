"""
Start, change and stop the simulated world from outside it: another process, spoken to over a pipe.

Who looks at the world gets its addresses, as settings, and nothing else.
"""

import json
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from opslib.simulation.world.faults import codes

ENDED_S = 10.0


class World:
    """
    A world that runs for as long as this is entered.

    Args:
        at: World time at which it begins, aware.
        speed: World seconds a second; with `runs` False time stands, and only delays are shortened by it.
        receiver: Where the world's page posts; empty: nowhere.

    Attributes:
        environ: The settings of whoever looks at it, its clock included.
        hit: How many answers, or contracts of a chain, were hit so far by what is the matter.
    """

    def __init__(
        self,
        at: datetime,
        *,
        seed: int = 1,
        speed: float = 1.0,
        runs: bool = True,
        receiver: str = "",
        ingest_key: str | None = None,
    ):
        self._at, self._speed, self._runs = at, speed, runs
        self._codes = codes(seed)
        self._birth: dict[str, Any] = {
            "seed": seed,
            "speed": speed,
            "runs": runs,
            "receiver": receiver,
            "ingest_key": ingest_key,
        }
        self.environ: dict[str, str] = {}
        self.hit = 0
        self._clock = ""
        self._turn = threading.Lock()

    def __enter__(self) -> "World":
        self._folder = tempfile.TemporaryDirectory(prefix="world-")
        birth = self._birth | {
            "folder": self._folder.name,
            "at_s": self._at.timestamp(),
            "tokens": {name: secrets.token_urlsafe(18) for name in ("massive", "tradier", "proxy")},
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "opslib.simulation.world.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._say(birth)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(ENDED_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()

    def _say(self, told: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        with self._turn:  # Who asks gets their own answer, whichever thread they are.
            self._process.stdin.write(json.dumps(told) + "\n")
            answered = self._process.stdout.readline()
        if not answered:
            raise RuntimeError(f"the simulated world ended with {self._process.wait()}")
        found: dict[str, Any] = json.loads(answered)
        self.environ, self.hit = found["addresses"], found["hit"]
        if self._runs:
            self._clock = (
                self._clock or f"{datetime.fromtimestamp(found['at_s'], UTC).isoformat()},{_real_s()},{self._speed}"
            )
            self.environ |= {"OPS_CLOCK": self._clock}
        return found

    @property
    def folder(self) -> Path:
        """Where the app's log, its pid and the authority's certificate lie."""
        return Path(self._folder.name)

    def be(self, **active: float) -> dict[str, str]:
        """
        Let just these states be the matter, each with its share; with none it is healthy.

        Returns the settings as they are now.
        """
        self._say({"active": {self._codes[name]: share for name, share in active.items()}})
        return self.environ

    def at(self, at: datetime) -> None:
        """Let it be another time."""
        self._say({"at_s": at.timestamp()})

    def now(self) -> datetime:
        """What time it is there."""
        return datetime.fromtimestamp(self._say({})["at_s"], UTC)

    def posts(self, at: datetime | None = None) -> list[tuple[datetime, dict[str, Any]]]:
        """
        What the page has posted since the last call, where nobody receives it: world time and body.

        With a time, it is that time first.
        """
        told = {"posts": True} | ({"at_s": at.timestamp()} if at else {})
        return [(datetime.fromtimestamp(at_s, UTC), body) for at_s, body in self._say(told)["posts"]]

    def fills(self) -> list[dict[str, Any]]:
        """The round trips of the page so far, as the app keeps them, each with a backtest's percent."""
        fills: list[dict[str, Any]] = self._say({"fills": True})["fills"]
        return fills

    def script(self) -> list[dict[str, Any]]:
        """What was the matter: state, share, from and to (None: it still is), in world time."""
        names = {code: name for name, code in self._codes.items()}

        def instant(s: float | None) -> datetime | None:
            return None if s is None else datetime.fromtimestamp(s, UTC)

        return [
            {"state": names[e["state"]], "share": e["share"], "from": instant(e["from_s"]), "to": instant(e["to_s"])}
            for e in self._say({"script": True})["script"]
        ]


def _real_s() -> float:
    """The machine's own time, for a clock that runs from it."""
    return time.clock_gettime(time.CLOCK_REALTIME)

"""
Start, change and stop the simulated world, which runs in another process behind a pipe.

The ops that monitors the world gets its addresses, as settings, and nothing else.
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
    A context manager that runs a simulated world.

    Args:
        at: World time at which it begins, aware.
        speed: World seconds per real second. With `runs` False the time stands still, and only delays are shortened.
        receiver: URL that the world's page posts to; empty for none.

    Attributes:
        environ: The settings to monitor this world, with its clock.
        hit: Number of responses, or contracts of a chain, that the active faults have affected so far.
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
        self._config: dict[str, Any] = {
            "seed": seed,
            "speed": speed,
            "runs": runs,
            "receiver": receiver,
            "ingest_key": ingest_key,
        }
        self.environ: dict[str, str] = {}
        self.hit = 0
        self._clock = ""
        self._lock = threading.Lock()

    def __enter__(self) -> "World":
        self._folder = tempfile.TemporaryDirectory(prefix="world-")
        config = self._config | {
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
        self._send(config)
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

    def _send(self, command: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        with self._lock:  # Each thread gets the answer to its own command.
            self._process.stdin.write(json.dumps(command) + "\n")
            answered = self._process.stdout.readline()
        if not answered:
            raise RuntimeError(f"the simulated world exited with code {self._process.wait()}")
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
        """Folder of the app's log, its pid file and the certificate of the authority."""
        return Path(self._folder.name)

    def inject(self, **active: float) -> dict[str, str]:
        """
        Make these the only active states, each with its share; without any the world is healthy.

        Returns:
            The settings as they are now.
        """
        self._send({"active": {self._codes[name]: share for name, share in active.items()}})
        return self.environ

    def set_time(self, at: datetime) -> None:
        """Set the world time."""
        self._send({"at_s": at.timestamp()})

    def now(self) -> datetime:
        """Return the world time."""
        return datetime.fromtimestamp(self._send({})["at_s"], UTC)

    def posts(self, at: datetime | None = None) -> list[tuple[datetime, dict[str, Any]]]:
        """
        Return what the page has posted since the last call, if there is no receiver: world time and body.

        With `at`, the world time is set first.
        """
        command = {"posts": True} | ({"at_s": at.timestamp()} if at else {})
        return [(datetime.fromtimestamp(at_s, UTC), body) for at_s, body in self._send(command)["posts"]]

    def fills(self) -> list[dict[str, Any]]:
        """Return the page's round trips so far, as the app stores them, each with its backtest percentage."""
        fills: list[dict[str, Any]] = self._send({"fills": True})["fills"]
        return fills

    def script(self) -> list[dict[str, Any]]:
        """Return the faults injected so far: state, share, from and to (None while active), in world time."""
        names = {code: name for name, code in self._codes.items()}

        def instant(s: float | None) -> datetime | None:
            return None if s is None else datetime.fromtimestamp(s, UTC)

        return [
            {"state": names[e["state"]], "share": e["share"], "from": instant(e["from_s"]), "to": instant(e["to_s"])}
            for e in self._send({"script": True})["script"]
        ]


def _real_s() -> float:
    """Return the machine's real time, seconds since 1970 UTC."""
    return time.clock_gettime(time.CLOCK_REALTIME)

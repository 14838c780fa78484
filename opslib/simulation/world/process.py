"""
Run the simulated world as a process: Massive, Tradier, the app, its page, and their faults.

Run as ``python -m opslib.simulation.world.process``; it is controlled over a pipe by `control.World`.
"""

import asyncio
import contextlib
import json
import os
import signal
import ssl
import sys
from pathlib import Path
from typing import Any

from opslib.simulation.world.faults import codes
from opslib.simulation.world.http_server import Server
from opslib.simulation.world.massive import Massive
from opslib.simulation.world.option_surface import Surface
from opslib.simulation.world.page_activity import PageActivity
from opslib.simulation.world.state import WorldState
from opslib.simulation.world.tradier import Tradier


class _Certificates:
    """A certificate authority of the world, a valid certificate, and an untrusted one."""

    def __init__(self, folder: Path):
        import trustme

        authority = trustme.CA(organization_name="a simulated authority")
        self.place = folder / "authority.pem"
        authority.cert_pem.write_to_path(str(self.place))
        self._contexts = {}
        for name, issued in (
            ("good", authority.issue_cert("127.0.0.1", "localhost")),
            ("wrong", trustme.CA(organization_name="nobody").issue_cert("elsewhere.example")),
        ):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            issued.configure_cert(context)
            self._contexts[name] = context

    def __getitem__(self, name: str) -> ssl.SSLContext:
        return self._contexts[name]


class WorldProcess:
    """
    All servers of the world, and the app's process.

    Args:
        config: As for `WorldState`, with `folder` (for the app's log, its pid file and the authority's certificate) and
            `receiver` (URL that the page posts to; empty for none).
    """

    def __init__(self, config: dict[str, Any]):
        self.world = WorldState(config)
        self._config, self._folder = config, Path(config["folder"])
        self._names = {code: name for name, code in codes(self.world.seed).items()}
        self._certificates = _Certificates(self._folder)
        surface = Surface(self.world.seed)
        self._massive = Massive(self.world, surface, lambda: f"https://127.0.0.1:{self._massive_server.port}")
        self._tradier = Tradier(self.world, surface)
        self._massive_server = Server(
            self._massive.answer, self.world.sleep, lambda: self._certificates[self._massive.certificate()]
        )
        self._tradier_server = Server(self._tradier.answer, self.world.sleep)
        self._page = PageActivity(self.world.seed, self.world.now_s(), self.world.states)
        self._app: asyncio.subprocess.Process | None = None
        self._ports, self._is_hung, self._hit = {"http_port": 0, "ws_port": 0}, False, 0
        self._certificate = "good"
        self.script: list[dict[str, Any]] = []

    async def open(self) -> None:
        """Start all servers and the app."""
        await self._massive_server.set_state("open")
        await self._tradier_server.set_state("open")
        await self._start_app()

    async def inject(self, active: dict[str, float]) -> None:
        """Make these the only active states from now on, and record it in the script."""
        before, now_s = dict(self.world.states.active), self.world.now_s()
        self.world.inject(active)
        after = self.world.states.active
        for entry in self.script:
            if entry["to_s"] is None and after.get(entry["state"]) != entry["share"]:
                entry["to_s"] = now_s
        self.script += [
            {"state": name, "share": share, "from_s": now_s, "to_s": None}
            for name, share in after.items()
            if before.get(name) != share
        ]
        await self._massive_server.set_state(self._massive.listening())
        await self._tradier_server.set_state(self._tradier.listening())
        if self._certificate != self._massive.certificate():
            self._certificate = self._massive.certificate()
            await self._massive_server.renew()
        await self._inject_into_app(before, after)

    async def _inject_into_app(self, before: dict[str, float], after: dict[str, float]) -> None:
        self._hang("app_hung" in after)
        if "app_down" in after or ("app_restarted" in after and "app_restarted" not in before):
            await self._stop_app()
        if "app_down" not in after and self._app is None:
            await self._start_app()
        await self._send_to_app(
            {"at_s": self.world.now_s(), "active": after} if "app_hung" in before else {"active": after}
        )

    def _hang(self, is_hung: bool) -> None:
        """
        Stop the app's process with SIGSTOP, or continue it.

        While it is stopped, the system accepts connections and nothing is answered.
        """
        if self._app and is_hung != self._is_hung:
            self._app.send_signal(signal.SIGSTOP if is_hung else signal.SIGCONT)
        self._is_hung = is_hung and self._app is not None

    async def set_time(self, at_s: float) -> None:
        """Set the world time."""
        self.world.set_s(at_s)
        await self._send_to_app({"at_s": at_s, "active": self.world.states.active})

    async def _start_app(self) -> None:
        log = os.open(self._folder / "app.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._app = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "opslib.simulation.world.app",
            stdin=asyncio.subprocess.PIPE,
            stdout=log,
            stderr=asyncio.subprocess.PIPE,
        )
        os.close(log)
        config = (
            {key: self._config[key] for key in ("seed", "speed", "tokens", "runs")}
            | {"at_s": self.world.now_s()}
            | self._ports
        )
        self._ports = await self._send_to_app(config)
        (self._folder / "app.pid").write_text(f"{self._app.pid}\n")
        await self._send_to_app({"active": self.world.states.active})

    async def _send_to_app(self, command: dict[str, Any]) -> dict[str, Any]:
        if self._app is None or self._is_hung:
            return {}
        assert self._app.stdin and self._app.stderr
        self._app.stdin.write(json.dumps(command).encode() + b"\n")
        await self._app.stdin.drain()
        answered = await self._app.stderr.readline()
        if not answered.startswith(b"{"):
            raise RuntimeError(f"the app answered {answered + await self._app.stderr.read()!r}")
        found: dict[str, Any] = json.loads(answered)
        self._hit = found.get("hit", self._hit)
        return found

    async def _stop_app(self) -> None:
        if self._app:
            self._app.kill()
            await self._app.wait()
            self._app = None

    async def close(self) -> None:
        """Stop all servers and the app."""
        await self._stop_app()
        await self._massive_server.set_state("closed")
        await self._tradier_server.set_state("closed")

    def addresses(self) -> dict[str, str]:
        """Return the present addresses, as settings of a home directory at this world."""
        # A name that cannot be resolved.
        massive = "massive.invalid" if self.world.states.on("massive_dns") else "127.0.0.1"
        return {
            "OPS_APP_URL": f"http://127.0.0.1:{self._ports['http_port']}",
            "OPS_APP_WS_URL": f"ws://127.0.0.1:{self._ports['ws_port']}/ws/options",
            "OPS_APP_LOG": str(self._folder / "app.log"),
            "OPS_APP_PID": str(self._folder / "app.pid"),
            "OPS_MASSIVE_URL": f"https://{massive}:{self._massive_server.port}",
            "OPS_TRADIER_URL": f"http://127.0.0.1:{self._tradier_server.port}",
            "OPS_MASSIVE_TOKEN": self.world.tokens["massive"],
            "OPS_TRADIER_TOKEN": self.world.tokens["tradier"],
            "OPS_SYMBOLS": "SPY,AAPL",
            "SSL_CERT_FILE": str(self._certificates.place),
        }

    async def run_page(self) -> None:
        """Post the page's snapshots to the receiver as they are due."""
        receiver, key = self._config["receiver"], self._config.get("ingest_key")
        if not receiver:
            return
        import httpx

        limits = httpx.Limits(
            max_keepalive_connections=0
        )  # A reused connection may have been closed: the post would be lost.
        async with httpx.AsyncClient(timeout=5, limits=limits, params={"key": key} if key else None) as client:
            while True:
                for _, body in self._page.posts(self.world.now_s()):
                    with contextlib.suppress(httpx.TransportError):  # The page does not repeat a post that failed.
                        await client.post(
                            f"{receiver}/api/metrics/export",
                            content=json.dumps(body),
                            headers={"Content-Type": "text/plain"},
                        )
                await asyncio.sleep(min(0.2, 1.0 / self.world.speed))

    async def execute(self, command: dict[str, Any]) -> dict[str, Any]:
        """Execute one command and return the answer."""
        if "active" in command:
            await self.inject({self._names[code]: share for code, share in command["active"].items()})
        if "at_s" in command:
            await self.set_time(command["at_s"])
        back = codes(self.world.seed)
        script = [entry | {"state": back[entry["state"]]} for entry in self.script] if command.get("script") else None
        posts = self._page.posts(self.world.now_s()) if command.get("posts") else None
        fills = self._page.fills() if command.get("fills") else None
        return {
            "at_s": self.world.now_s(),
            "addresses": self.addresses(),
            "script": script,
            "posts": posts,
            "fills": fills,
            "hit": self.world.states.hit + self._hit,
        }


async def _main() -> None:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    world = WorldProcess(json.loads(await lines.readline()))
    await world.open()
    posting = asyncio.create_task(world.run_page())
    try:
        print(json.dumps(await world.execute({})), flush=True)
        while line := await lines.readline():
            print(json.dumps(await world.execute(json.loads(line))), flush=True)
    finally:
        posting.cancel()
        await world.close()


if __name__ == "__main__":
    asyncio.run(_main())

"""
Run the simulated world as a process: Massive, Tradier, the app, its page, and their faults.

Run as ``python -m opslib.simulation.world.process``; whoever started it speaks to it over a pipe.
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
    """An authority of the world's own, a certificate of it that is right, and one that nobody should trust."""

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
    Every server of the world, and the app's process.

    Args:
        birth: As for `WorldState`, with `folder` (where the app's log, its pid and the authority's certificate lie),
            `receiver` (where the page posts; empty: nowhere) and `every_s` (world seconds between two posts' turns).
    """

    def __init__(self, birth: dict[str, Any]):
        self.world = WorldState(birth)
        self._birth, self._folder = birth, Path(birth["folder"])
        self._names = {code: name for name, code in codes(self.world.seed).items()}
        self._certificates = _Certificates(self._folder)
        surface = Surface(self.world.seed)
        self._massive = Massive(self.world, surface, lambda: f"https://127.0.0.1:{self._massive_server.port}")
        self._tradier = Tradier(self.world, surface)
        self._massive_server = Server(
            self._massive.answer, self.world.sleep, lambda: self._certificates[self._massive.certificate()]
        )
        self._tradier_server = Server(self._tradier.answer, self.world.sleep)
        self._life = PageActivity(self.world.seed, self.world.now_s(), self.world.states)
        self._app: asyncio.subprocess.Process | None = None
        self._ports, self._is_hung, self._hit = {"http_port": 0, "ws_port": 0}, False, 0
        self._certificate = "good"
        self.script: list[dict[str, Any]] = []

    async def open(self) -> None:
        """Let everything run."""
        await self._massive_server.be("open")
        await self._tradier_server.be("open")
        await self._start_app()

    async def become(self, active: dict[str, float]) -> None:
        """Let just these be the matter from now on, and write it into the script."""
        before, now_s = dict(self.world.states.active), self.world.now_s()
        self.world.become(active)
        after = self.world.states.active
        for entry in self.script:
            if entry["to_s"] is None and after.get(entry["state"]) != entry["share"]:
                entry["to_s"] = now_s
        self.script += [
            {"state": name, "share": share, "from_s": now_s, "to_s": None}
            for name, share in after.items()
            if before.get(name) != share
        ]
        await self._massive_server.be(self._massive.listening())
        await self._tradier_server.be(self._tradier.listening())
        if self._certificate != self._massive.certificate():
            self._certificate = self._massive.certificate()
            await self._massive_server.renew()
        await self._app_becomes(before, after)

    async def _app_becomes(self, before: dict[str, float], after: dict[str, float]) -> None:
        self._hang("app_hung" in after)
        if "app_down" in after or ("app_restarted" in after and "app_restarted" not in before):
            await self._stop_app()
        if "app_down" not in after and self._app is None:
            await self._start_app()
        await self._tell_app(
            {"at_s": self.world.now_s(), "active": after} if "app_hung" in before else {"active": after}
        )

    def _hang(self, is_hung: bool) -> None:
        """
        Stop the app's process where it stands, or let it go on: connections are taken meanwhile, and nothing is
        answered.
        """
        if self._app and is_hung != self._is_hung:
            self._app.send_signal(signal.SIGSTOP if is_hung else signal.SIGCONT)
        self._is_hung = is_hung and self._app is not None

    async def at(self, at_s: float) -> None:
        """Let it be another time."""
        self.world.set_s(at_s)
        await self._tell_app({"at_s": at_s, "active": self.world.states.active})

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
        born = (
            {key: self._birth[key] for key in ("seed", "speed", "tokens", "runs")}
            | {"at_s": self.world.now_s()}
            | self._ports
        )
        self._ports = await self._tell_app(born)
        (self._folder / "app.pid").write_text(f"{self._app.pid}\n")
        await self._tell_app({"active": self.world.states.active})

    async def _tell_app(self, told: dict[str, Any]) -> dict[str, Any]:
        if self._app is None or self._is_hung:
            return {}
        assert self._app.stdin and self._app.stderr
        self._app.stdin.write(json.dumps(told).encode() + b"\n")
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
        """Let nothing run any more."""
        await self._stop_app()
        await self._massive_server.be("closed")
        await self._tradier_server.be("closed")

    def addresses(self) -> dict[str, str]:
        """Where everything is now, as the settings of who looks at it."""
        # A name that no resolver knows.
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

    async def live_page(self) -> None:
        """Post what the page posts, as it comes, to the receiver."""
        receiver, key = self._birth["receiver"], self._birth.get("ingest_key")
        if not receiver:
            return
        import httpx

        anew = httpx.Limits(max_keepalive_connections=0)  # No post is lost to a connection that was closed meanwhile.
        async with httpx.AsyncClient(timeout=5, limits=anew, params={"key": key} if key else None) as client:
            while True:
                for _, body in self._life.posts(self.world.now_s()):
                    with contextlib.suppress(httpx.TransportError):  # What does not arrive the page does not repeat.
                        await client.post(
                            f"{receiver}/api/metrics/export",
                            content=json.dumps(body),
                            headers={"Content-Type": "text/plain"},
                        )
                await asyncio.sleep(min(0.2, 1.0 / self.world.speed))

    async def obey(self, told: dict[str, Any]) -> dict[str, Any]:
        """Do what one line says, and answer it."""
        if "active" in told:
            await self.become({self._names[code]: share for code, share in told["active"].items()})
        if "at_s" in told:
            await self.at(told["at_s"])
        back = codes(self.world.seed)
        script = [entry | {"state": back[entry["state"]]} for entry in self.script] if told.get("script") else None
        posts = self._life.posts(self.world.now_s()) if told.get("posts") else None
        fills = self._life.fills() if told.get("fills") else None
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
    stage = WorldProcess(json.loads(await lines.readline()))
    await stage.open()
    paging = asyncio.create_task(stage.live_page())
    try:
        print(json.dumps(await stage.obey({})), flush=True)
        while line := await lines.readline():
            print(json.dumps(await stage.obey(json.loads(line))), flush=True)
    finally:
        paging.cancel()
        await stage.close()


if __name__ == "__main__":
    asyncio.run(_main())

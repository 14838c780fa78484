"""
This module knows the receiver: what comes in over HTTP, and what is given out there; and nothing else.

A post is acknowledged only when it is on the disk. One writer thread takes all posts that wait and keeps them in one
transaction, so that many connections share one fsync.
"""

import asyncio
import gc
import hmac
import ipaddress
import json
import queue
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from opslib import clock, exposition, neighbour, panels, rules as rules_module, snapshot, text
from opslib.collect import Standby
from opslib.dispatch import Dispatch
from opslib.errors import BadAlerts, BadSnapshot, OpsError, SettingsError, StoreError
from opslib.settings import Settings
from opslib.snapshot import Snapshot
from opslib.staff import Staff
from opslib.store import MOST_POST_REJECTS, Post, Reject, Store

if TYPE_CHECKING:
    import uvicorn

LARGEST_BODY = 64 * 1024
LARGEST_ALERTS = 1024 * 1024
LARGEST_HEAD = 512 * 1024  # With whatever part of the body comes in the same packets.
CONTENT_TYPES = ("application/json", "text/plain")
RETRY_AFTER_S = 5
MOST_WAITING = 4096
MOST_AT_ONCE = 512


class _Refused(Exception):
    """A request that is answered with a problem."""

    def __init__(self, status: int, title: str, detail: str, headers: dict[str, str] | None = None, **more: Any):
        self.status, self.title, self.detail, self.headers, self.more = status, title, detail, headers or {}, more


class Writer:
    """
    The one thread that writes: it keeps all that waits in one transaction, then tells each that it is on the disk.

    Args:
        store: Where to.
        app: Whose posts.
        now: What time it is, when a post came; only the demo gives another one.
    """

    def __init__(self, store: Store, app: str, now: Callable[[], datetime]):
        self._store, self._app, self._now = store, app, now
        self._waiting: queue.Queue[tuple[Post | Reject, Future] | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def keep(self, found: Snapshot | Reject) -> Future:
        """
        A future that is done when this is on the disk, and raises where it could not be kept.

        Raises:
            queue.Full: So many wait already that one more would only wait in vain.
        """
        item = Post(clock.micros(self._now()), found) if isinstance(found, Snapshot) else found
        done: Future = Future()
        done.set_running_or_notify_cancel()  # Who stops waiting for it stops neither the write nor the writer.
        self._waiting.put_nowait((item, done))
        return done

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch = [first]
            while len(batch) < MOST_AT_ONCE and not self._waiting.empty():
                following = self._waiting.get()
                if following is None:
                    self._waiting.put(None)
                    break
                batch.append(following)
            self._write(batch)

    def _write(self, batch: list[tuple[Post | Reject, Future]]) -> None:
        try:
            rejects = [item for item, _ in batch if isinstance(item, Reject)]
            if rejects and self._store.post_rejects(self._app) >= MOST_POST_REJECTS:
                rejects = []
            self._store.write(self._app, [item for item, _ in batch if isinstance(item, Post)], rejects)
        except Exception as problem:  # Whatever it is, each waiting post must hear of it and be answered 503.
            for _, done in batch:
                done.set_exception(problem)
        else:
            for _, done in batch:
                done.set_result(None)

    def close(self) -> None:
        """Write what waits, then stop."""
        self._waiting.put(None)
        self._thread.join()


def _allowed(given: str | None, key: str | None) -> bool:
    return key is None or (given is not None and hmac.compare_digest(given.encode(), key.encode()))


def _given_key(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" and token else request.query_params.get("key")


async def _body(request: Request, most: int = LARGEST_BODY) -> bytes:
    """The body, as far as it may be large."""
    too_large = _Refused(413, "The body is too large", f"at most {most} bytes are taken")
    length = request.headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()) or int(length[:12]) > most:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise too_large
    return bytes(body)


def build(settings: Settings, store: Store, rules: rules_module.Rules, *, now: Callable[[], datetime] = clock.now) -> Starlette:
    """
    The receiver and its exposition, as CONTRACT.md has them, ready to be served.

    Args:
        now: What time it is; only the demo gives another one.
    """
    started = now()
    writer = Writer(store, settings.app, now)
    write_key, read_key = settings.secret("OPS_INGEST_KEY"), settings.secret("OPS_READ_KEY")

    def cors(request: Request) -> dict[str, str]:
        origin = request.headers.get("origin")
        if origin is None:
            return {}
        if origin.rstrip("/") not in settings.cors_origins:
            raise _Refused(403, "This origin may not post", f"{text.one_line(origin, 100)} is not in OPS_CORS_ORIGINS")
        return {"access-control-allow-origin": origin, "vary": "Origin"}

    async def export(request: Request) -> Response:
        headers = cors(request)
        if not _allowed(_given_key(request), write_key):
            raise _Refused(401, "The ingest key is needed", "send it as Authorization: Bearer …, or as the query parameter key", {"www-authenticate": "Bearer"})
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() not in CONTENT_TYPES:
            raise _Refused(415, "The content type is not taken", f"{' and '.join(CONTENT_TYPES)} are")
        if "content-encoding" in request.headers and request.headers["content-encoding"].lower() != "identity":
            raise _Refused(415, "The content encoding is not taken", "send the JSON as it is")
        body = await _body(request)
        try:
            found = snapshot.read(snapshot.loads(body), body)
        except BadSnapshot as problem:
            await kept(Reject("post", tuple(problem.fields), body))
            raise _Refused(400, "These are no dashboard metrics", str(problem)[:2000], fields=[field[:200] for field in problem.fields[:100]]) from None
        await kept(found)
        return Response(status_code=204, headers=headers)

    async def kept(found: Snapshot | Reject) -> None:
        try:
            await asyncio.wrap_future(writer.keep(found))
        except (Exception, asyncio.CancelledError) as problem:  # Whatever keeps a post from the disk, a shutdown too: its sender must hear 503 and send it again.
            why = "too many are waiting" if isinstance(problem, queue.Full) else f"{problem}" if isinstance(problem, StoreError) else repr(problem)
            print(f"ops serve: a post could not be kept: {settings.redact(why)}", file=sys.stderr)
            raise _Refused(503, "The post could not be kept", "the store does not take it now", {"retry-after": str(RETRY_AFTER_S)}) from None

    async def alerts(request: Request) -> Response:
        """Alertmanager's API v2: what another monitor judges comes in here."""
        if not _allowed(_given_key(request), write_key):
            raise _Refused(401, "The ingest key is needed", "send it as Authorization: Bearer …", {"www-authenticate": "Bearer"})
        body = await _body(request, LARGEST_ALERTS)
        try:
            found = json.loads(settings.redact(json.dumps(neighbour.read(body, now()))))
            await run_in_threadpool(Dispatch(store, settings.app).heard, found)
        except BadAlerts as problem:
            raise _Refused(400, "These are no alerts", str(problem)[:2000]) from None
        return JSONResponse({})

    async def preflight(request: Request) -> Response:
        if "origin" not in request.headers:
            return Response(status_code=204, headers={"allow": "POST, OPTIONS"})
        more = {"access-control-allow-methods": "POST", "access-control-allow-headers": "authorization, content-type", "access-control-max-age": "600"}
        return Response(status_code=204, headers=cors(request) | more)

    async def health(request: Request) -> Response:
        at = now()
        return JSONResponse({"status": "ok", "uptime": (at - started).total_seconds(), "timestamp": text.iso(at)})

    def last_hour() -> panels.View:
        return panels.status(store, settings, rules, as_of=now(), length=timedelta(hours=1))

    def readable(request: Request) -> None:
        if not _allowed(_given_key(request), read_key):
            raise _Refused(401, "The read key is needed", "send it as Authorization: Bearer …", {"www-authenticate": "Bearer"})

    async def metrics_json(request: Request) -> Response:
        readable(request)
        return JSONResponse(await run_in_threadpool(lambda: last_hour().as_json()))

    async def metrics_text(request: Request) -> Response:
        readable(request)
        found = await run_in_threadpool(lambda: exposition.prometheus(last_hour(), exposition.errors_total(store, settings, rules, now())))
        return PlainTextResponse(found, media_type="text/plain; version=0.0.4")

    async def refused(request: Request, problem: _Refused) -> Response:
        content = {"type": "about:blank", "title": problem.title, "status": problem.status, "detail": problem.detail} | problem.more
        try:
            headers = cors(request)  # Without it a page could not read why it was refused.
        except _Refused:
            headers = {}
        return Response(json.dumps(content), problem.status, headers | problem.headers, "application/problem+json")

    async def store_fails(request: Request, problem: OpsError) -> Response:
        return await refused(request, _Refused(503, "The store cannot be read", settings.redact(str(problem)), {"retry-after": str(RETRY_AFTER_S)}))

    async def gone(request: Request, problem: ClientDisconnect) -> Response:
        return Response(status_code=400)

    routes = [
        Route("/api/metrics/export", export, methods=["POST"]),
        Route("/api/metrics/export", preflight, methods=["OPTIONS"]),
        Route("/api/v2/alerts", alerts, methods=["POST"]),
        Route("/health", health, methods=["GET"]),
        Route("/api/metrics", metrics_json, methods=["GET"]),
        Route("/metrics", metrics_text, methods=["GET"]),
    ]
    app = Starlette(routes=routes, exception_handlers={_Refused: refused, OpsError: store_fails, ClientDisconnect: gone})
    app.router.redirect_slashes = False  # A redirect would repeat the query, and with it a key.
    app.state.writer = writer
    return app


def _checked_host(settings: Settings, host: str) -> None:
    """Anywhere but on this machine alone, both keys are needed."""
    try:
        alone = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        alone = False
    missing = [name for name in ("OPS_INGEST_KEY", "OPS_READ_KEY") if not settings.secret(name)]
    if not alone and missing:
        raise SettingsError(f"to listen on {host}, where others can reach it, keys are needed; {' and '.join(missing)} not set. Set them, or listen on 127.0.0.1.")


def serve(settings: Settings, store: Store, rules: rules_module.Rules, staff: Staff, *, host: str = "127.0.0.1", port: int = 8321) -> None:
    """
    Receive and expose until stopped; and stand by for the collector, should it die.

    Raises:
        SettingsError: Others could reach it and a key is missing.
        StoreError: The store can only be read.
        OpsError: The port cannot be listened on.
    """
    _checked_host(settings, host)
    store.file.check_writable()
    gc.collect()
    gc.freeze()  # What start-up made stays; a full collection that walks it every second or so held up one post in fifty.
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048)
    except OSError as problem:
        raise OpsError(f"port {port} of {host} could not be listened on ({problem.strerror}); is another ops serve running? Give another --port.") from None
    app = build(settings, store, rules)
    print(f"ops serve: {settings.app} listens on http://{host}:{port} (POST /api/metrics/export); stop with Ctrl-C", file=sys.stderr)
    stop = threading.Event()
    standing_by = threading.Thread(target=Standby(store, settings, rules, staff).run, args=(stop,), name="standby")
    standing_by.start()
    try:
        _uvicorn(app).run(sockets=[listening])
    except KeyboardInterrupt:
        pass
    finally:
        stop.set()
        app.state.writer.close()
        standing_by.join()


def _uvicorn(app: Starlette) -> "uvicorn.Server":
    """The web server, with an end to how much head a request may have."""
    import uvicorn
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class Bounded(HttpToolsProtocol):
        _head_bytes: int | None = 0

        def on_message_begin(self) -> None:
            self._head_bytes = 0
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._head_bytes = None
            super().on_headers_complete()

        def data_received(self, data: bytes) -> None:
            if self._head_bytes is not None:
                self._head_bytes += len(data)
                if self._head_bytes > LARGEST_HEAD:
                    self.transport.close()
                    return
            super().data_received(data)

    return uvicorn.Server(uvicorn.Config(app, http=Bounded, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=10))


class Served:
    """
    The receiver on a free port of this machine, served from a thread while inside; for the demo and for tests.

    Attributes:
        url: Where it listens.
    """

    def __init__(self, settings: Settings, store: Store, rules: rules_module.Rules, *, now: Callable[[], datetime] = clock.now):
        self._app = build(settings, store, rules, now=now)
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(128)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = _uvicorn(self._app)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    def __enter__(self) -> "Served":
        self._thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._app.state.writer.close()
        self._socket.close()

"""
Serve HTTP: receive posts, logs and alerts, and give out figures.

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
import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from opslib.alerting.notifications import external_alerts
from opslib.alerting.notifications.store import NotificationStore
from opslib.dashboard import prometheus, status
from opslib.foundation import clock, formatting, logs
from opslib.foundation.config import rules as config_rules
from opslib.foundation.config.contacts import Contacts
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import BadAlerts, BadLogs, BadSnapshot, OpsError, SettingsError, StoreError
from opslib.foundation.storage.database import Database
from opslib.services import start_page
from opslib.services.collector import Standby
from opslib.services.connections import webserver
from opslib.services.request_checks import Problem, RequestChecks, may_write, not_configured, sender
from opslib.telemetry import log_drain as log_drain_module
from opslib.telemetry.pages import snapshot
from opslib.telemetry.pages.refused_posts import Refusals
from opslib.telemetry.pages.snapshot import Snapshot
from opslib.telemetry.pages.store import MOST_POST_REJECTS, Post, RejectedPost, SnapshotStore
from opslib.telemetry.probes.store import SampleStore

LARGEST_BODY = 64 * 1024
LARGEST_ALERTS = 16 * 1024 * 1024  # Alertmanager has no limit; a Prometheus sends 64 alerts at once.
CONTENT_TYPES = ("application/json", "text/plain")
RETRY_AFTER_S = 5
MOST_WAITING = 4096
MOST_AT_ONCE = 512
EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104  # To listen on every address is no name.
UNSHARED = {
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
WAYS = (
    "POST /api/metrics/export takes an app's metrics, POST /api/logs its log, POST /api/v2/alerts another "
    "monitor's alerts; GET /, /health, /metrics and /api/metrics are to read."
)


class Writer:
    """
    The one thread that writes: it keeps all that waits in one transaction, then tells each that it is on the disk.

    Args:
        store: Where to.
        app: Whose posts.
        now: What time it is, when a post came; only the demo gives another one.
        known_at_ts: Whether a post is known from when it came, by that clock, however late it is written.
    """

    def __init__(self, store: Database, app: str, now: Callable[[], datetime], known_at_ts: bool):
        self._store, self._app, self._now, self._known_at_ts = store, app, now, known_at_ts
        self._waiting: queue.Queue[tuple[Post | RejectedPost, Future[None]] | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def keep(self, found: Snapshot | RejectedPost) -> Future[None]:
        """
        A future that is done when this is on the disk, and raises where it could not be kept.

        Raises:
            queue.Full: So many wait already that one more would only wait in vain.
        """
        item = Post(clock.micros(self._now()), found) if isinstance(found, Snapshot) else found
        done: Future[None] = Future()
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

    def _write(self, batch: list[tuple[Post | RejectedPost, Future[None]]]) -> None:
        try:
            rejects = [item for item, _ in batch if isinstance(item, RejectedPost)]
            if rejects and SnapshotStore(self._store).post_rejects(self._app) >= MOST_POST_REJECTS:
                rejects = []
            posts = [item for item, _ in batch if isinstance(item, Post)]
            SnapshotStore(self._store).write(self._app, posts, rejects, known_at_ts=self._known_at_ts)
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
    too_large = Problem(413, "The body is too large", f"at most {most} bytes are taken")
    length = request.headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()) or int(length[:12]) > most:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise too_large
    return bytes(body)


def build(
    settings: Settings,
    store: Database,
    rules: config_rules.Rules,
    *,
    now: Callable[[], datetime] = clock.now,
    known_at_ts: bool = False,
    host: str = "127.0.0.1",
) -> Starlette:
    """
    The receiver and its exposition, as CONTRACT.md has them, ready to be served.

    Args:
        now: What time it is; only the demo gives another one.
        known_at_ts: As of `Writer`; only for the demo, which sends posts of some minutes together.
        host: Where it listens; it may be addressed by that name.
    """
    started = now()
    writer = Writer(store, settings.app, now, known_at_ts)
    refusals = Refusals(store, settings.app, now, settings.redact)
    log = logs.of(settings.redact)
    origins = frozenset(origin.lower() for origin in settings.cors_origins)
    write_key, read_key = settings.secret("OPS_INGEST_KEY"), settings.secret("OPS_READ_KEY")

    def cors(request: Request) -> dict[str, str]:
        origin = request.headers.get("origin")
        if origin is None:
            return {}
        if not may_write(origin, origins):
            raise not_configured(origin)
        return {"access-control-allow-origin": origin, "vary": "Origin"}

    def writable(request: Request, types: tuple[str, ...]) -> None:
        if not _allowed(_given_key(request), write_key):
            raise Problem(
                401,
                "The ingest key is needed",
                "send it as Authorization: Bearer …, or as the query parameter key",
                {"www-authenticate": "Bearer"},
            )
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in types:
            raise Problem(
                415,
                "The content type is not taken",
                f"{' and '.join(types)} {'are' if len(types) > 1 else 'is'} taken; this was sent "
                f"{f'as {formatting.single_line(kind, 60)}' if kind else 'without a type'}. Send the header "
                f"Content-Type: application/json; with curl: -H 'Content-Type: application/json'",
            )
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Problem(415, "The content encoding is not taken", "send the JSON as it is, not compressed")

    async def export(request: Request) -> Response:
        if request.method == "OPTIONS":
            return preflight(request)
        headers = cors(request)
        writable(request, CONTENT_TYPES)
        body = await _body(request)
        try:
            found = snapshot.read(snapshot.loads(body), body)
        except BadSnapshot as problem:
            await kept(RejectedPost("post", tuple(problem.fields), body))
            raise Problem(
                400,
                "These are no dashboard metrics",
                str(problem)[:2000],
                fields=[field[:200] for field in problem.fields[:100]],
            ) from None
        await kept(found)
        return Response(status_code=204, headers=headers)

    async def kept(found: Snapshot | RejectedPost) -> None:
        try:
            await asyncio.wrap_future(writer.keep(found))
        # Whatever keeps a post from the disk, a shutdown too: its sender must hear 503 and send it again.
        except (Exception, asyncio.CancelledError) as problem:
            if isinstance(problem, queue.Full):
                why = "too many are waiting"
            else:
                why = str(problem) if isinstance(problem, StoreError) else repr(problem)
            log.error(f"a post could not be kept: {why}")
            raise Problem(
                503, "The post could not be kept", "the store does not take it now", {"retry-after": str(RETRY_AFTER_S)}
            ) from None

    async def alerts(request: Request) -> Response:
        """Take the alerts of another monitor, by Alertmanager's API v2, and answer as Alertmanager does."""
        headers = cors(request)
        writable(request, CONTENT_TYPES[:1])
        body = await _body(request, LARGEST_ALERTS)
        try:
            refused = await run_in_threadpool(keep_alerts, body)
        except BadAlerts as problem:
            raise Problem(400, "These are no alerts", str(problem)) from None
        if not refused:
            return Response(status_code=200, headers=headers)
        who = sender(request.scope, request.headers.getlist("origin"))
        for why in refused:
            refusals.count(400, f"an alert is not valid: {why.partition(': ')[2]}", who)
        return JSONResponse("; ".join(refused)[:2000], 400, headers)

    def keep_alerts(body: bytes) -> list[str]:
        """Keep every valid alert of a request; returns why each of the others was refused."""
        found = external_alerts.read(body, now())
        for first in range(0, len(found.alerts), MOST_AT_ONCE):  # Posts that wait for the store get their turn between.
            NotificationStore(store, settings.app).heard(
                json.loads(settings.redact(json.dumps(found.alerts[first : first + MOST_AT_ONCE])))
            )
        return [settings.redact(why) for why in found.refused]

    async def log_drain(request: Request) -> Response:
        """Take lines of the app's log, as a hosted app's log drain posts them."""
        headers = cors(request)
        writable(request, log_drain_module.TYPES)
        kind = request.headers["content-type"].partition(";")[0].strip().lower()
        body = await _body(request, log_drain_module.LARGEST)
        try:
            await run_in_threadpool(keep_lines, body, kind, request.headers.get("logplex-frame-id", ""))
        except BadLogs as problem:
            raise Problem(400, "These are no lines of a log", settings.redact(str(problem))) from None
        except StoreError as problem:
            log.error(f"lines of a log could not be kept: {problem}")
            raise Problem(
                503,
                "The lines could not be kept",
                "the store does not take them now; send them again",
                {"retry-after": str(RETRY_AFTER_S)},
            ) from None
        return Response(status_code=204, headers=headers)

    def keep_lines(body: bytes, kind: str, frame: str) -> None:
        """Keep what a drain posted; it is on the disk when this returns."""
        log_drain_module.keep(
            SampleStore(store, settings.app), log_drain_module.read(body, kind, frame), now(), settings.redact
        )

    def preflight(request: Request) -> Response:
        if "origin" not in request.headers:
            return Response(status_code=204, headers={"allow": "POST, OPTIONS"})
        more = {
            "access-control-allow-methods": "POST",
            "access-control-allow-headers": "authorization, content-type",
            "access-control-max-age": "600",
        }
        return Response(status_code=204, headers=cors(request) | more)

    async def health(request: Request) -> Response:
        at = now()
        return JSONResponse(
            {"status": "ok", "uptime": (at - started).total_seconds(), "timestamp": formatting.iso(at)},
            headers=UNSHARED,
        )

    def last_hour() -> status.Status:
        return status.status(store, settings, rules, as_of=now(), length=timedelta(hours=1))

    def readable(request: Request) -> None:
        if not _allowed(_given_key(request), read_key):
            raise Problem(
                401, "The read key is needed", "send it as Authorization: Bearer …", {"www-authenticate": "Bearer"}
            )

    async def metrics_json(request: Request) -> Response:
        readable(request)
        return JSONResponse(await run_in_threadpool(lambda: last_hour().as_json()), headers=UNSHARED)

    async def metrics_text(request: Request) -> Response:
        readable(request)
        found = await run_in_threadpool(
            lambda: prometheus.prometheus(last_hour(), prometheus.errors_total(store, settings, rules, now()))
        )
        return PlainTextResponse(found, media_type="text/plain; version=0.0.4", headers=UNSHARED)

    async def start(request: Request) -> Response:
        """What a person sees who opens the receiver's address; figures only for who may read them."""
        may_read = _allowed(_given_key(request), read_key)
        found = await run_in_threadpool(
            lambda: start_page.page(settings.app, request.headers["host"], last_hour() if may_read else None)
        )
        return HTMLResponse(found, headers=UNSHARED | start_page.HEADERS)

    async def refused(request: Request, problem: Problem) -> Response:
        if problem.status < 500 and (
            request.method == "POST" or (request.method == "OPTIONS" and problem.status == 403)
        ):
            # A browser does not send the post whose preflight was refused; this is all that is seen of it.
            refusals.count(problem.status, problem.title, sender(request.scope, request.headers.getlist("origin")))
        try:
            headers = cors(request)  # Without it a page could not read why it was refused.
        except Problem:
            headers = {}
        return problem.answer(headers)

    async def store_fails(request: Request, problem: OpsError) -> Response:
        return await refused(
            request,
            Problem(
                503, "The store cannot be read", settings.redact(str(problem)), {"retry-after": str(RETRY_AFTER_S)}
            ),
        )

    async def no_route(request: Request, problem: HTTPException) -> Response:
        if problem.status_code == 405:
            return await refused(
                request,
                Problem(
                    405,
                    "The method is not taken here",
                    f"this address takes {(problem.headers or {}).get('Allow', '')}. {WAYS}",
                    dict(problem.headers or {}),
                ),
            )
        return await refused(request, Problem(problem.status_code, "There is nothing here", WAYS))

    async def gone(request: Request, problem: ClientDisconnect) -> Response:
        return Response(status_code=400)

    routes = [
        Route("/api/metrics/export", export, methods=["POST", "OPTIONS"]),  # The most asked for, so the first.
        Route("/api/logs", log_drain, methods=["POST"]),
        Route("/api/v2/alerts", alerts, methods=["POST"]),
        Route("/health", health, methods=["GET"]),
        Route("/api/metrics", metrics_json, methods=["GET"]),
        Route("/metrics", metrics_text, methods=["GET"]),
        Route("/", start, methods=["GET"]),
    ]
    names = settings.allowed_hosts if host in EVERYWHERE else (*settings.allowed_hosts, host.lower())
    checks = Middleware(RequestChecks, origins=origins, hosts=names, refusals=refusals)
    # Starlette's own type wants each handler to take any exception.
    handlers: dict[Any, Any] = {
        Problem: refused,
        OpsError: store_fails,
        HTTPException: no_route,
        ClientDisconnect: gone,
    }
    app = Starlette(routes=routes, middleware=[checks], exception_handlers=handlers)
    app.router.redirect_slashes = False  # A redirect would repeat the query, and with it a key.
    app.state.writer, app.state.refusals = writer, refusals
    return app


def _checked_host(settings: Settings, host: str) -> None:
    """Anywhere but on this machine alone, both keys are needed."""
    try:
        alone = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        alone = False
    missing = [name for name in ("OPS_INGEST_KEY", "OPS_READ_KEY") if not settings.secret(name)]
    if not alone and missing:
        raise SettingsError(
            f"to listen on {host}, where others can reach it, keys are needed; {' and '.join(missing)} not "
            f"set. Set them, or listen on 127.0.0.1."
        )


def serve(
    settings: Settings,
    store: Database,
    rules: config_rules.Rules,
    staff: Contacts,
    *,
    host: str = "127.0.0.1",
    port: int = 8321,
) -> None:
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
    # What start-up made stays; a full collection that walks it every second or so held up one post in fifty.
    gc.freeze()
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except OSError as problem:
        raise OpsError(
            f"port {port} of {host} could not be listened on ({problem.strerror}); is another ops serve "
            f"running? Give another --port."
        ) from None
    app = build(settings, store, rules, host=host)
    logs.of(settings.redact).info(
        f"{settings.app} listens on http://{host}:{port} (POST /api/metrics/export); stop with Ctrl-C"
    )
    stop = threading.Event()
    standing_by = threading.Thread(target=Standby(store, settings, rules, staff).run, args=(stop,), name="standby")
    standing_by.start()
    try:
        webserver(app).run(sockets=[listening])
    except KeyboardInterrupt:
        pass
    finally:
        stop.set()
        app.state.writer.close()
        app.state.refusals.close()
        standing_by.join()


class ServerThread:
    """
    The receiver on a free port of this machine, served from a thread while inside; for the demo and for tests.

    Attributes:
        app: What is served.
        url: Where it listens.
    """

    def __init__(
        self,
        settings: Settings,
        store: Database,
        rules: config_rules.Rules,
        *,
        now: Callable[[], datetime] = clock.now,
        known_at_ts: bool = False,
    ):
        self.app = build(settings, store, rules, now=now, known_at_ts=known_at_ts)
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(128)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = webserver(self.app)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    def __enter__(self) -> "ServerThread":
        self._thread.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._server.should_exit = True
        self._thread.join()
        self.app.state.writer.close()
        self.app.state.refusals.close()
        self._socket.close()

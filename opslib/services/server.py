"""
Serve HTTP: receive snapshots, logs and alerts, and expose metrics.

A post is acknowledged only after it was written to the disk. One writer thread writes all waiting posts in one
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
from opslib.foundation.config.workspace import Workspace
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
EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104  # These listen on every address; they are not host names.
UNSHARED = {
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
ROUTES = (
    "POST /api/metrics/export accepts the app's metrics, POST /api/logs its log lines, POST /api/v2/alerts the alerts "
    "of another monitoring system. GET /, /health, /metrics and /api/metrics are read-only."
)


class Writer:
    """
    The only thread that writes posts: it writes all waiting posts in one transaction, then completes their futures.

    Args:
        store: The database.
        app: The app to which the posts belong.
        now: The clock by which posts are dated; only the demo passes its own.
        known_at_ts: Whether a post's time is also its known-at time, however late it is written.
    """

    def __init__(self, store: Database, app: str, now: Callable[[], datetime], known_at_ts: bool):
        self._store, self._app, self._now, self._known_at_ts = store, app, now, known_at_ts
        self._waiting: queue.Queue[tuple[Post | RejectedPost, Future[None]] | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def keep(self, found: Snapshot | RejectedPost) -> Future[None]:
        """
        Queue a post; the future completes when it is on the disk, and raises if it could not be written.

        Raises:
            queue.Full: Too many posts are waiting already.
        """
        item = Post(clock.micros(self._now()), found) if isinstance(found, Snapshot) else found
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # A cancelled request stops neither the write nor the writer.
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
        except Exception as problem:  # Whatever failed, each waiting post must get it and be answered 503.
            for _, done in batch:
                done.set_exception(problem)
        else:
            for _, done in batch:
                done.set_result(None)

    def close(self) -> None:
        """Write the waiting posts, then stop."""
        self._waiting.put(None)
        self._thread.join()


def _allowed(given: str | None, key: str | None) -> bool:
    return key is None or (given is not None and hmac.compare_digest(given.encode(), key.encode()))


def _given_key(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" and token else request.query_params.get("key")


async def _body(request: Request, most: int = LARGEST_BODY) -> bytes:
    """Read the body of a request, up to a size limit."""
    too_large = Problem(413, "The body is too large", f"at most {most} bytes are accepted")
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
    Build the web application of `ops serve`, with the routes of CONTRACT.md.

    Args:
        now: The clock; only the demo passes its own.
        known_at_ts: As for `Writer`; only for the demo, which sends the posts of several minutes together.
        host: The host name or address on which it listens; requests may use it as Host.
    """
    started, workspace = now(), Workspace(settings, now)
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
                "The ingest key is required",
                "send it as Authorization: Bearer …, or as the query parameter key",
                {"www-authenticate": "Bearer"},
            )
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in types:
            raise Problem(
                415,
                "The content type is not accepted",
                f"expected {' or '.join(types)}, found "
                f"{formatting.single_line(kind, 60) if kind else 'no Content-Type'}. Send the header "
                f"Content-Type: application/json; with curl: -H 'Content-Type: application/json'",
            )
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Problem(415, "The content encoding is not accepted", "send the JSON uncompressed")

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
                "The body is not valid dashboard metrics",
                str(problem)[:2000],
                fields=[field[:200] for field in problem.fields[:100]],
            ) from None
        await kept(found)
        return Response(status_code=204, headers=headers)

    async def kept(found: Snapshot | RejectedPost) -> None:
        try:
            await asyncio.wrap_future(writer.keep(found))
        # Whatever prevented the write, also a shutdown: the sender must get 503 and send the post again.
        except (Exception, asyncio.CancelledError) as problem:
            if isinstance(problem, queue.Full):
                why = "too many posts are waiting"
            else:
                why = str(problem) if isinstance(problem, StoreError) else repr(problem)
            log.error(f"a post could not be written to the database: {why}")
            raise Problem(
                503,
                "The post could not be stored",
                "the database cannot be written at the moment; send the post again later",
                {"retry-after": str(RETRY_AFTER_S)},
            ) from None

    async def alerts(request: Request) -> Response:
        """Accept the alerts of another monitoring system by Alertmanager's API v2, and respond as Alertmanager does."""
        headers = cors(request)
        writable(request, CONTENT_TYPES[:1])
        body = await _body(request, LARGEST_ALERTS)
        try:
            rejected = await run_in_threadpool(keep_alerts, body)
        except BadAlerts as problem:
            raise Problem(400, "The body is not a list of alerts", str(problem)) from None
        if not rejected:
            return Response(status_code=200, headers=headers)
        origin = sender(request.scope, request.headers.getlist("origin"))
        for why in rejected:
            refusals.count(400, f"an alert is not valid: {why.partition(': ')[2]}", origin)
        return JSONResponse("; ".join(rejected)[:2000], 400, headers)

    def keep_alerts(body: bytes) -> list[str]:
        """Store every valid alert of a request, and return why each of the others was rejected."""
        found = external_alerts.read(body, now())
        for first in range(0, len(found.alerts), MOST_AT_ONCE):  # Between them, waiting posts can be written.
            NotificationStore(store, settings.app).store_external_alerts(
                json.loads(settings.redact(json.dumps(found.alerts[first : first + MOST_AT_ONCE])))
            )
        return [settings.redact(why) for why in found.refused]

    async def log_drain(request: Request) -> Response:
        """Accept lines of the app's log, as the log drain of a hosted app posts them."""
        headers = cors(request)
        writable(request, log_drain_module.TYPES)
        kind = request.headers["content-type"].partition(";")[0].strip().lower()
        body = await _body(request, log_drain_module.LARGEST)
        try:
            await run_in_threadpool(keep_lines, body, kind, request.headers.get("logplex-frame-id", ""))
        except BadLogs as problem:
            raise Problem(400, "The body does not hold log lines", settings.redact(str(problem))) from None
        except StoreError as problem:
            log.error(f"log lines could not be written to the database: {problem}")
            raise Problem(
                503,
                "The lines could not be stored",
                "the database cannot be written at the moment; send the lines again later",
                {"retry-after": str(RETRY_AFTER_S)},
            ) from None
        return Response(status_code=204, headers=headers)

    def keep_lines(body: bytes, kind: str, frame: str) -> None:
        """Store the lines that a drain posted; they are on the disk when this returns."""
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
                401, "The read key is required", "send it as Authorization: Bearer …", {"www-authenticate": "Bearer"}
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
        """Respond with the start page; it shows figures only with the read key."""
        may_read = _allowed(_given_key(request), read_key)
        found = await run_in_threadpool(lambda: start_page.page(workspace, request.headers["host"], may_read))
        return HTMLResponse(found, headers=UNSHARED | start_page.HEADERS)

    async def refused(request: Request, problem: Problem) -> Response:
        if problem.status < 500 and (
            request.method == "POST" or (request.method == "OPTIONS" and problem.status == 403)
        ):
            # A browser does not send the post whose preflight was rejected; only the preflight can be counted.
            refusals.count(problem.status, problem.title, sender(request.scope, request.headers.getlist("origin")))
        try:
            headers = cors(request)  # Without them a page could not read why it was rejected.
        except Problem:
            headers = {}
        return problem.answer(headers)

    async def store_fails(request: Request, problem: OpsError) -> Response:
        return await refused(
            request,
            Problem(
                503, "The database cannot be read", settings.redact(str(problem)), {"retry-after": str(RETRY_AFTER_S)}
            ),
        )

    async def no_route(request: Request, problem: HTTPException) -> Response:
        if problem.status_code == 405:
            return await refused(
                request,
                Problem(
                    405,
                    "The method is not allowed",
                    f"this address accepts {(problem.headers or {}).get('Allow', '')}. {ROUTES}",
                    dict(problem.headers or {}),
                ),
            )
        return await refused(request, Problem(problem.status_code, "Not found", ROUTES))

    async def gone(request: Request, problem: ClientDisconnect) -> Response:
        return Response(status_code=400)

    routes = [
        Route("/api/metrics/export", export, methods=["POST", "OPTIONS"]),  # First, because it gets most requests.
        Route("/api/logs", log_drain, methods=["POST"]),
        Route("/api/v2/alerts", alerts, methods=["POST"]),
        Route("/health", health, methods=["GET"]),
        Route("/api/metrics", metrics_json, methods=["GET"]),
        Route("/metrics", metrics_text, methods=["GET"]),
        Route("/", start, methods=["GET"]),
    ]
    names = settings.allowed_hosts if host in EVERYWHERE else (*settings.allowed_hosts, host.lower())
    checks = Middleware(RequestChecks, origins=origins, hosts=names, refusals=refusals)
    # Starlette's type requires that each handler accepts any exception.
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
    """Require both keys, unless the host is this machine only."""
    try:
        alone = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        alone = False
    missing = [name for name in ("OPS_INGEST_KEY", "OPS_READ_KEY") if not settings.secret(name)]
    if not alone and missing:
        raise SettingsError(
            f"ops serve does not listen on {host}, which others can reach, without keys: {' and '.join(missing)} not "
            f"set. Set both keys, or use --host 127.0.0.1."
        )


def serve(
    settings: Settings,
    store: Database,
    rules: config_rules.Rules,
    contacts: Contacts,
    *,
    host: str = "127.0.0.1",
    port: int = 8321,
) -> None:
    """
    Run `ops serve` until stopped, and stand by in case the collector dies.

    Raises:
        SettingsError: Others could reach it and a key is missing.
        StoreError: The database is read-only.
        OpsError: It cannot listen on the port.
    """
    _checked_host(settings, host)
    store.file.check_writable()
    gc.collect()
    # Objects of the start-up stay alive; a full collection over them every second delayed one post in fifty.
    gc.freeze()
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except OSError as problem:
        raise OpsError(
            f"ops serve cannot listen on port {port} of {host} ({problem.strerror}). Stop the other program that uses "
            f"the port, perhaps another ops serve, or use another --port."
        ) from None
    app = build(settings, store, rules, host=host)
    logs.of(settings.redact).info(
        f"{settings.app}: listening on http://{host}:{port} (POST /api/metrics/export). Stop with Ctrl-C."
    )
    stop = threading.Event()
    standby = threading.Thread(target=Standby(store, settings, rules, contacts).run, args=(stop,), name="standby")
    standby.start()
    try:
        webserver(app).run(sockets=[listening])
    except KeyboardInterrupt:
        pass
    finally:
        stop.set()
        app.state.writer.close()
        app.state.refusals.close()
        standby.join()


class ServerThread:
    """
    A server on a free port of this machine, run in a thread while the context is open; for the demo and for tests.

    Attributes:
        app: The web application.
        url: The address on which it listens.
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

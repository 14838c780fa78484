"""
Read settings and secrets from settings.toml and the environment.

Later sources override earlier ones: the defaults, ``$OPS_HOME/settings.toml``, the environment, command options. A
secret comes from the environment or from the file that ``…_FILE`` names, never from settings.toml or a parameter. Every
text that leaves ops has its secrets redacted: see `Settings.redact`.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit

from opslib.foundation import files, formatting, market_calendar
from opslib.foundation.config import addresses, documents
from opslib.foundation.errors import ImportRefused, SettingsError

if TYPE_CHECKING:
    from sqlalchemy import URL


MOST_SECRET_BYTES = 64 * 2**10
SECRETS = ("OPS_INGEST_KEY", "OPS_READ_KEY", "OPS_MASSIVE_TOKEN", "OPS_TRADIER_TOKEN", "OPS_HEARTBEAT_URL")
SOCKET = "OPS_APP_WS_URL"  # Its query may hold a token, so the query is treated as a secret of that name.
RECEIVER_KEYS = ("OPS_INGEST_KEY", "OPS_READ_KEY")
CHANNEL = "OPS_CHANNEL_"  # Prefix of the secrets of notification channels.
DEMO, DESK = "demo", "desk"  # The app that needs no settings; the default app.
SAMPLE_FILLS = "sample_trades.json"  # In the demo's home directory: the trades of its script.
# The variables that say what is monitored.
WORLD = (
    "OPS_APP_URL",
    "OPS_APP_WS_URL",
    "OPS_APP_LOG",
    "OPS_APP_PID",
    "OPS_MASSIVE_URL",
    "OPS_TRADIER_URL",
    "OPS_SYMBOLS",
    "OPS_FALLBACK",
)
# Text that looks like a key in an address, a header or JSON, even if it is not one of our secrets.
KEYS = re.compile(r"""(?i)\b((?:api_?key|access_token|token)["']?\s*[=:]\s*["']?|bearer\s+)[\w.~+/%=-]{12,}""")
LEAST_SECRET = 7  # A part of an address this short could be any word, so it is not redacted.
FALLBACKS = ("tradier", "none")
WIRED = ("massive", "tradier", "fallbacks", "iv_anomalies", "backtest_variance", "websocket")


@dataclass(frozen=True, slots=True)
class Settings:
    """
    The settings of one app: where its files are and what is monitored.

    Attributes:
        home: Directory of the database, reports and settings files.
        app: Name of the app.
        store_url: SQLAlchemy URL of the database; empty means a SQLite file in `home`.
        cors_origins: Origins whose pages may post to the receiver from a browser.
        allowed_hosts: Host names accepted by the receiver, besides those of this machine.
        wired: Fields declared as wired although only zeros were received (``fallbacks``, ``iv_anomalies``,
            ``backtest_variance``, ``websocket``, ``massive``, ``tradier``).
        post_every_s: Seconds between two posts of a page, until its own interval is known.
        app_url: URL of the app's server, without a path; empty means that it is not probed.
        app_ws_url: URL of the app's WebSocket, with its path and without its query, which is the secret
            ``OPS_APP_WS_URL``.
        app_log: A file, a pipe, or ``journal:UNIT``.
        app_pid: The id of the app's process, or the file that holds it.
        massive_url, tradier_url: URLs of the providers' APIs, without a path.
        symbols: Underlyings whose chains are fetched; the first one is used to probe whether data is fresh.
        fallback: The provider that serves when Massive does not: ``tradier``, or ``none``.
        massive_per_min, tradier_per_min: Request quota per minute of each provider.
        host_prefix: A command that runs another on the app's host, such as ``["ssh", "HOST"]``; empty means this
            machine, None means that only a person has access to the host.
        keep_runs_days, keep_runs_mb: How long the files of executed runs are kept, and their total size limit.
        ca_file: File of certificates to trust besides the known ones; None if there is none.
        secrets: Secrets by name; never printed.
        secret_files: The files that secrets came from, by name.
    """

    home: Path
    app: str
    store_url: "str | URL" = ""
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    wired: tuple[str, ...] = ()
    post_every_s: float = 5.0
    app_url: str = ""
    app_ws_url: str = ""
    app_log: str = ""
    app_pid: str = ""
    massive_url: str = ""
    tradier_url: str = ""
    symbols: tuple[str, ...] = ()
    fallback: str = "tradier"
    massive_per_min: float = 300.0
    tradier_per_min: float = 60.0
    host_prefix: tuple[str, ...] | None = None
    keep_runs_days: float = 90.0
    keep_runs_mb: float = 2000.0
    ca_file: str | None = None
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret_files: Mapping[str, str] = field(default_factory=dict)

    @property
    def base(self) -> Path:
        """The home directory that was requested; the demo's own home directory lies inside it."""
        return self.home.parent if self.app == DEMO else self.home

    @property
    def url(self) -> "str | URL":
        """SQLAlchemy URL of the database: as the user wrote it, or of the file in `home`."""
        return self.store_url or sqlite_url(self.home / "store.sqlite")

    @property
    def outputs(self) -> Path:
        """Directory of this app's reports and runs."""
        return self.home / self.app

    @property
    def where(self) -> tuple[str, ...]:
        """
        The options with which a command finds this app in a shell without our environment.

        A database that only the environment names is not among them: its URL may hold a password.
        """
        place = project()
        home = () if place is not None and self.base == place / "outputs" else ("--home", str(self.base))
        try:
            usual = documents.read(self.base / "settings.toml").table.get("app", DESK)
        except SettingsError:
            usual = None  # The file was damaged after it was read; the command then names the app.
        return home if self.app == usual else (*home, "--app", self.app)

    def secret(self, name: str) -> str | None:
        """Return the value of a secret, or None if it is not set."""
        return self.secrets.get(name)

    @property
    def targets(self) -> list[str]:
        """The monitored targets that the settings name."""
        named = {
            "massive": "massive_url",
            "tradier": "tradier_url",
            "the app": "app_url",
            "its WebSocket": "app_ws_url",
            "its log": "app_log",
            "its process": "app_pid",
        }
        return [name for name, key in named.items() if getattr(self, key)]

    def redact(self, outgoing: str) -> str:
        """Replace every secret in a text by its name, also where it is URL- or JSON-encoded, and hide other keys."""
        # Longer secrets first, because one may contain another.
        for name, value in sorted(self.secrets.items(), key=lambda s: -len(s[1])):
            # The secret part of an address is its path.
            path = urlsplit(value).path if value.startswith(("http://", "https://")) else ""
            values = [part for _, part in parse_qsl(value)] if name == SOCKET else []
            for part in (value, *values, *((path, path.rpartition("/")[2]) if len(path) > LEAST_SECRET else ())):
                for written in (
                    {
                        part,
                        quote(part, safe=""),
                        quote(part),
                        quote_plus(part),
                        json.dumps(part)[1:-1],
                        json.dumps(part).replace("/", "\\/")[1:-1],
                    }
                    if len(part) > LEAST_SECRET or part == value
                    else ()
                ):
                    outgoing = outgoing.replace(written, f"[{name}]")
        return KEYS.sub(r"\1[hidden]", outgoing)


def sqlite_url(path: Path) -> "URL":
    """Return the SQLAlchemy URL of a SQLite file, also if its path contains ``?`` or ``%``."""
    from sqlalchemy import URL

    return URL.create("sqlite", database=str(path))


def project() -> Path | None:
    """Return the directory of the project this package runs from, or None if it was installed without it."""
    folder = Path(__file__).resolve().parents[3]
    return folder if (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir() else None


def without_secrets(environ: Mapping[str, str], *names: str) -> dict[str, str]:
    """Return an environment without the named secrets and their files; without all secrets if none is named."""
    hidden = names or _secret_names(environ)
    environ = {name: value.partition("?")[0] if name == SOCKET else value for name, value in environ.items()}
    return {name: value for name, value in environ.items() if name.removesuffix("_FILE") not in hidden}


def _secret_names(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of all secrets: the fixed ones, and those of the channels that an environment names."""
    return (*SECRETS, *sorted({name.removesuffix("_FILE") for name in environ if name.startswith(CHANNEL)}))


def _secret(name: str, environ: Mapping[str, str]) -> str | None:
    path = environ.get(f"{name}_FILE")
    if not path:
        return environ.get(name) or None
    try:
        return files.read_text(Path(path), MOST_SECRET_BYTES).strip() or None
    except ImportRefused as problem:
        raise SettingsError(
            f"{name}_FILE names {path!r}, which cannot be read: {problem} Set it to a readable text file of at "
            f"most {MOST_SECRET_BYTES // 1024} KiB."
        ) from None


def redacted(outgoing: str, environ: Mapping[str, str] | None = None) -> str:
    """Redact every secret of the environment in a text for people, also if the settings themselves cannot be read."""
    environ = os.environ if environ is None else environ
    found = {}
    for name in _secret_names(environ):
        try:
            found[name] = _secret(name, environ)
        except SettingsError:
            continue  # Its file cannot be read, so the text cannot contain it either.
    found |= _socket_query(environ)
    return Settings(Path(), "", secrets={name: value for name, value in found.items() if value}).redact(outgoing)


def _from_file(path: Path) -> dict[str, Any]:
    """
    Read ``settings.toml``; roles, channels, notify and hooks are only checked to be tables.

    Raises:
        SettingsError: Every problem with its place.
    """
    document = documents.read(path)
    known = {"wired": WIRED, "fallbacks": FALLBACKS}

    def problems() -> list[str]:
        from opslib.foundation.config import settings_form, validation

        return validation.problems(settings_form.SettingsForm, document.table, str(path), known)

    document.validate(_FORM, known, problems)
    return document.table


_FORM = Path(__file__).with_name("settings_form.py")


def _sessions(found: Mapping[str, object]) -> dict[date, time | None]:
    """Return the declared exceptions to the shipped sessions: None if closed, else the time of the early close."""
    return {
        date.fromisoformat(day): None if closing == "closed" else time.fromisoformat(str(closing))
        for day, closing in found.items()
    }


def _url(name: str, address: str) -> str:
    """
    Return an address as it is set, without a query.

    Raises:
        SettingsError: It is not an address, or holds a secret.
    """
    schemes = addresses.SOCKET if name == SOCKET else addresses.HTTP
    if not address:
        return ""
    if not addresses.is_address(address, schemes):
        shown = formatting.single_line(address.partition("?")[0] if name == SOCKET else address, 80)
        raise SettingsError(f"{name} is {shown!r}; an address such as {schemes[-1]}://HOST:PORT was expected.")
    if addresses.holds_login(address) or (addresses.parts(address).query and name != SOCKET):
        raise SettingsError(
            f"{name} holds a name, password or query; an address without them was expected. Keys belong in "
            f"OPS_MASSIVE_TOKEN and OPS_TRADIER_TOKEN."
        )
    return address.partition("?")[0].rstrip("/")


def _socket_query(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the query of the WebSocket's address, if it has one, as a secret."""
    query = environ.get(SOCKET, "").partition("?")[2]
    return {SOCKET: query} if query else {}


def _world(found: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """
    Return the variables of CONTRACT.md that say what is monitored, each from the environment or else from the file.
    """

    def text_of(key: str) -> str:
        assert f"OPS_{key.upper()}" in WORLD
        return environ.get(f"OPS_{key.upper()}") or str(found.get(key, ""))

    fallback = text_of("fallback") or "tradier"
    if fallback not in FALLBACKS:
        raise SettingsError(
            f"OPS_FALLBACK is {fallback!r}; {' or '.join(FALLBACKS)} was expected."
            f"{formatting.nearest(fallback, FALLBACKS)}"
        )
    symbols = environ.get("OPS_SYMBOLS", "").split(",") if environ.get("OPS_SYMBOLS") else found.get("symbols", [])
    symbols = tuple(dict.fromkeys(s.strip().upper() for s in symbols if s.strip()))
    if wrong := [symbol for symbol in symbols if not addresses.is_symbol(symbol)]:
        raise SettingsError(
            f"OPS_SYMBOLS names {formatting.single_line(wrong[0], 40)!r}; symbols of underlyings, separated by commas, "
            f"were expected, such as SPY,QQQ."
        )
    return {
        **{
            key: _url(f"OPS_{key.upper()}", text_of(key))
            for key in ("app_url", "app_ws_url", "massive_url", "tradier_url")
        },
        **{key: text_of(key) for key in ("app_log", "app_pid")},
        **{
            key: float(found[key])
            for key in ("massive_per_min", "tradier_per_min", "post_every_s", "keep_runs_days", "keep_runs_mb")
            if key in found
        },
        "symbols": symbols,
        "fallback": fallback,
        "host_prefix": tuple(found["host_prefix"]) if "host_prefix" in found else None,
        "ca_file": environ.get("SSL_CERT_FILE") or found.get("ca_file"),
    }


def _hosts(named: Iterable[str]) -> tuple[str, ...]:
    """
    Return host names in lower case.

    Raises:
        SettingsError: One is not a valid host name.
    """
    hosts = tuple(name.strip().lower() for name in named if name.strip())
    for host in hosts:
        if not addresses.is_host(host):
            raise SettingsError(
                f"OPS_ALLOWED_HOSTS names {formatting.single_line(host, 60)!r}; names or addresses without scheme, "
                f"port or path were expected, separated by commas, such as ops.example."
            )
    return hosts


def with_targets(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """Return the same settings with the monitored targets that an environment names."""
    return replace(
        settings,
        secrets={name: value for name in _secret_names(environ) if (value := _secret(name, environ))}
        | _socket_query(environ),
        **_world({}, environ),
    )


def home_of(home: str | Path | None, environ: Mapping[str, str]) -> Path:
    """
    Return the home directory that a caller names; else ``OPS_HOME``; else the project's ``outputs/``.

    It need not exist.

    Raises:
        SettingsError: No directory can have that name.
    """
    given = home or environ.get("OPS_HOME")
    try:
        return Path(given).expanduser().resolve() if given else (project() or Path.cwd()) / "outputs"
    except (OSError, RuntimeError, ValueError) as problem:
        raise SettingsError(
            f"the home directory {formatting.single_line(str(given), 80)!r} is not a valid path ({problem}). Choose "
            f"another with --home or OPS_HOME."
        ) from None


def load(home: str | Path | None = None, app: str | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """
    Load the settings of one app.

    Args:
        home: Home directory given by the caller; else ``OPS_HOME``; else the project's ``outputs/``.
        app: App given by the caller; else ``OPS_APP``; else that of settings.toml; else ``desk``. ``demo`` has
            a home directory of its own inside.
        environ: The environment; the process's own by default.

    Raises:
        SettingsError: A settings file or variable is invalid.
    """
    environ = os.environ if environ is None else environ
    base = home_of(home, environ)
    found = _from_file(base / "settings.toml")
    name = app or environ.get("OPS_APP") or found.get("app") or DESK
    if not name.replace("-", "").replace("_", "").isalnum() or len(name) > 40:
        raise SettingsError(
            f"the app's name is {formatting.single_line(name, 60)!r}; up to 40 letters, digits, - and _ were expected."
        )
    secrets = {s: value for s in _secret_names(environ) if (value := _secret(s, environ))} | _socket_query(environ)
    market_calendar.override_sessions({} if name == DEMO else _sessions(found.get("sessions", {})))
    if name == DEMO:
        return Settings(home=base / DEMO, app=DEMO, secrets=secrets)
    origins = environ.get("OPS_CORS_ORIGINS")
    return Settings(
        home=base,
        app=name,
        store_url=environ.get("OPS_STORE_URL") or found.get("store_url", ""),
        cors_origins=tuple(
            o.strip().rstrip("/")
            for o in (origins.split(",") if origins else found.get("cors_origins", ()))
            if o.strip()
        ),
        allowed_hosts=_hosts(
            environ.get("OPS_ALLOWED_HOSTS", "").split(",")
            if environ.get("OPS_ALLOWED_HOSTS")
            else found.get("allowed_hosts", ())
        ),
        wired=tuple(found.get("wired", ())),
        secrets=secrets,
        secret_files={name: environ[f"{name}_FILE"] for name in secrets if environ.get(f"{name}_FILE")},
        **_world(found, environ),
    )

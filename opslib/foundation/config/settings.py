"""
Read settings and secrets: where things are, and which app this is.

Later lies over earlier: the defaults, ``$OPS_HOME/settings.toml``, the environment, what a command was given.
A secret comes from the environment or from the file that ``…_FILE`` names, never from settings.toml or a parameter,
and no text that leaves this suite holds one: see `Settings.redact`.
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
SOCKET = "OPS_APP_WS_URL"  # Its query may hold a token, so the query is a secret of that name.
RECEIVER_KEYS = ("OPS_INGEST_KEY", "OPS_READ_KEY")
CHANNEL = "OPS_CHANNEL_"  # What begins so is the secret of a channel by which people are told.
DEMO, DESK = "demo", "desk"  # The app that needs nothing; the one that is meant where none is named.
SAMPLE_FILLS = "sample_trades.json"  # In the demo's home: the trades of its script.
# What tells the suite what it looks at.
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
# What looks like a key of somebody's, named in an address, a header or JSON, though it is none of ours.
KEYS = re.compile(r"""(?i)\b((?:api_?key|access_token|token)["']?\s*[=:]\s*["']?|bearer\s+)[\w.~+/%=-]{12,}""")
LEAST_SECRET = 7  # A shorter part of an address could be any word.
FALLBACKS = ("tradier", "none")
WIRED = ("massive", "tradier", "fallbacks", "iv_anomalies", "backtest_variance", "websocket")


@dataclass(frozen=True, slots=True)
class Settings:
    """
    Where a desk is and what it looks at.

    Attributes:
        home: Folder of the store, reports and settings files.
        app: Name of the app whose figures are meant.
        store_url: SQLAlchemy URL of the store; empty is a SQLite file in `home`.
        cors_origins: Origins whose pages may post to the receiver from a browser.
        allowed_hosts: Names by which the receiver may be addressed, besides those of this machine alone.
        wired: Fields declared live although only zeros were seen (``fallbacks``, ``iv_anomalies``,
            ``backtest_variance``, ``websocket``, ``massive``, ``tradier``).
        post_every_s: Seconds between two posts of a page, where its own rhythm cannot be seen yet.
        app_url: Of the app's server, without a path; empty is that nobody looks at it.
        app_ws_url: Of the app's WebSocket, with its path and without its query, which is the secret ``OPS_APP_WS_URL``.
        app_log: A file, a pipe, or ``journal:UNIT``.
        app_pid: The number of the app's process, or the file that holds it.
        massive_url, tradier_url: Of the providers' APIs, without a path.
        symbols: Underlyings whose chains are fetched; the first is asked for to see whether data is fresh.
        fallback: Who serves when Massive does not: ``tradier``, or ``none``.
        massive_per_min, tradier_per_min: As many questions a minute does each allow us.
        host_prefix: A command that runs another on the app's host, such as ``["ssh", "HOST"]``; empty is this machine,
            None that nobody can look there but a person.
        keep_runs_days, keep_runs_mb: How long the files of executed runs are kept, and how much room they may take
            together.
        ca_file: Certificates to trust besides the known ones; None is none.
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
        """The home that was asked for; the demo's own home lies inside it."""
        return self.home.parent if self.app == DEMO else self.home

    @property
    def url(self) -> "str | URL":
        """SQLAlchemy URL of the store: as the user typed it, or of the file in `home`."""
        return self.store_url or sqlite_url(self.home / "store.sqlite")

    @property
    def outputs(self) -> Path:
        """Folder of this app's reports and runs."""
        return self.home / self.app

    @property
    def where(self) -> tuple[str, ...]:
        """
        The options by which a command finds this desk in a shell that has none of our environment.

        A store that only the environment names is not among them: its URL may hold a password.
        """
        place = project()
        home = () if place is not None and self.base == place / "outputs" else ("--home", str(self.base))
        try:
            usual = documents.read(self.base / "settings.toml").table.get("app", DESK)
        except SettingsError:
            usual = None  # The file was damaged after we read it; the command then names the app.
        return home if self.app == usual else (*home, "--app", self.app)

    def secret(self, name: str) -> str | None:
        """The value of a secret, or None where it is not set."""
        return self.secrets.get(name)

    @property
    def looked_at(self) -> list[str]:
        """What the settings name that can be probed."""
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
        """
        Text with every secret's value replaced by its name, also as it stands in an address or in JSON; and nobody
        else's key.
        """
        # The longer first: one may stand in another.
        for name, value in sorted(self.secrets.items(), key=lambda s: -len(s[1])):
            # Of a secret address the path is the secret.
            path = urlsplit(value).path if value.startswith(("http://", "https://")) else ""
            values = [told for _, told in parse_qsl(value)] if name == SOCKET else []
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
    """
    SQLAlchemy URL of a SQLite file, whatever its path is made of: as text, a ? or % in it would mean something else.
    """
    from sqlalchemy import URL

    return URL.create("sqlite", database=str(path))


def project() -> Path | None:
    """The folder of the project this package runs from, or None where it was installed without it."""
    folder = Path(__file__).resolve().parents[3]
    return folder if (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir() else None


def without_secrets(environ: Mapping[str, str], *names: str) -> dict[str, str]:
    """An environment without these secrets, and without the files that hold them; where none is named, without any."""
    hidden = names or _secret_names(environ)
    environ = {name: value.partition("?")[0] if name == SOCKET else value for name, value in environ.items()}
    return {name: value for name, value in environ.items() if name.removesuffix("_FILE") not in hidden}


def _secret_names(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Every secret that there may be: ours, and those of the channels that an environment names."""
    return (*SECRETS, *sorted({name.removesuffix("_FILE") for name in environ if name.startswith(CHANNEL)}))


def _secret(name: str, environ: Mapping[str, str]) -> str | None:
    path = environ.get(f"{name}_FILE")
    if not path:
        return environ.get(name) or None
    try:
        return files.read_text(Path(path), MOST_SECRET_BYTES).strip() or None
    except ImportRefused as problem:
        raise SettingsError(
            f"{name}_FILE names {path!r}, which cannot be read: {problem} Name a readable text file of at "
            f"most {MOST_SECRET_BYTES // 1024} KiB."
        ) from None


def redacted(outgoing: str, environ: Mapping[str, str] | None = None) -> str:
    """Text for people without any secret, also where the settings themselves cannot be read."""
    environ = os.environ if environ is None else environ
    found = {}
    for name in _secret_names(environ):
        try:
            found[name] = _secret(name, environ)
        except SettingsError:
            continue  # Its file cannot be read, so nobody can have put it into the text either.
    found |= _socket_query(environ)
    return Settings(Path(), "", secrets={name: value for name, value in found.items() if value}).redact(outgoing)


def _from_file(path: Path) -> dict[str, Any]:
    """
    What ``settings.toml`` says; of roles, channels, notify and hooks only that they are tables.

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
    """
    The days on which the exchanges closed though the shipped table does not know it, and at what time those that did
    not stay closed.
    """
    return {
        date.fromisoformat(day): None if said == "closed" else time.fromisoformat(str(said))
        for day, said in found.items()
    }


def _url(name: str, told: str) -> str:
    """An address as it is set, refused where no program could ask there, or where it holds a secret."""
    schemes = addresses.SOCKET if name == SOCKET else addresses.HTTP
    if not told:
        return ""
    if not addresses.is_address(told, schemes):
        raise SettingsError(
            f"{name} is {formatting.single_line(told.partition('?')[0] if name == SOCKET else told, 80)!r}; an address "
            f"such as {schemes[-1]}://HOST:PORT was wanted."
        )
    if addresses.holds_login(told) or (addresses.parts(told).query and name != SOCKET):
        raise SettingsError(
            f"{name} holds a name, password or query; keys belong in OPS_MASSIVE_TOKEN and OPS_TRADIER_TOKEN."
        )
    return told.partition("?")[0].rstrip("/")


def _socket_query(environ: Mapping[str, str]) -> dict[str, str]:
    """The query of the socket's address, where it has one, as the secret that it is."""
    query = environ.get(SOCKET, "").partition("?")[2]
    return {SOCKET: query} if query else {}


def _world(found: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Where the world is: what CONTRACT.md names, each from the environment or else from the file."""

    def told(key: str) -> str:
        assert f"OPS_{key.upper()}" in WORLD
        return environ.get(f"OPS_{key.upper()}") or str(found.get(key, ""))

    fallback = told("fallback") or "tradier"
    if fallback not in FALLBACKS:
        raise SettingsError(f"OPS_FALLBACK is {fallback!r}; it may be {' or '.join(FALLBACKS)}.")
    symbols = environ.get("OPS_SYMBOLS", "").split(",") if environ.get("OPS_SYMBOLS") else found.get("symbols", [])
    symbols = tuple(dict.fromkeys(s.strip().upper() for s in symbols if s.strip()))
    if wrong := [symbol for symbol in symbols if not addresses.is_symbol(symbol)]:
        raise SettingsError(
            f"OPS_SYMBOLS names {formatting.single_line(wrong[0], 40)!r}; symbols of underlyings, separated by commas, "
            f"were wanted."
        )
    return {
        **{
            key: _url(f"OPS_{key.upper()}", told(key))
            for key in ("app_url", "app_ws_url", "massive_url", "tradier_url")
        },
        **{key: told(key) for key in ("app_log", "app_pid")},
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
    """Names of hosts in lower case, refused where one can be no name in a request's Host."""
    hosts = tuple(name.strip().lower() for name in named if name.strip())
    for host in hosts:
        if not addresses.is_host(host):
            raise SettingsError(
                f"OPS_ALLOWED_HOSTS names {formatting.single_line(host, 60)!r}; names or addresses without scheme, "
                f"port or path were expected, separated by commas, such as ops.example."
            )
    return hosts


def looking_at(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """The same desk, looking at the world that an environment names."""
    return replace(
        settings,
        secrets={name: value for name in _secret_names(environ) if (value := _secret(name, environ))}
        | _socket_query(environ),
        **_world({}, environ),
    )


def home_of(home: str | Path | None, environ: Mapping[str, str]) -> Path:
    """
    The home that a caller names; else ``OPS_HOME``; else the project's ``outputs/``. It need not exist.

    Raises:
        SettingsError: No folder can have that name.
    """
    given = home or environ.get("OPS_HOME")
    try:
        return Path(given).expanduser().resolve() if given else (project() or Path.cwd()) / "outputs"
    except (OSError, RuntimeError, ValueError) as problem:
        raise SettingsError(
            f"the home {formatting.single_line(str(given), 80)!r} is no folder that can be ({problem}). Name another "
            f"with --home or OPS_HOME."
        ) from None


def load(home: str | Path | None = None, app: str | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """
    Which desk are we bound to?

    Args:
        home: Folder given by the caller; else ``OPS_HOME``; else the project's ``outputs/``.
        app: App given by the caller; else the only one configured; else ``desk``. ``demo`` lives in a home of its own
            inside.
        environ: The environment; the process's own by default.

    Raises:
        SettingsError: A settings file or variable that cannot be read as meant.
    """
    environ = os.environ if environ is None else environ
    base = home_of(home, environ)
    found = _from_file(base / "settings.toml")
    name = app or environ.get("OPS_APP") or found.get("app") or DESK
    if not name.replace("-", "").replace("_", "").isalnum() or len(name) > 40:
        raise SettingsError(f"an app's name is letters, digits, - and _, found {name!r}.")
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

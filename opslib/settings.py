"""
This module knows where things are, which app we are bound to and what secrets are called, and nothing else.

Later lies over earlier: the defaults, ``$OPS_HOME/settings.toml``, the environment, what a command was given.
A secret comes from the environment or from the file that ``…_FILE`` names, never from settings.toml or a parameter,
and no text that leaves this suite holds one: see `Settings.redact`.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from opslib import text
from opslib.errors import SettingsError

VERSION = "0.1.0"
SECRETS = ("OPS_INGEST_KEY", "OPS_READ_KEY", "OPS_MASSIVE_TOKEN", "OPS_TRADIER_TOKEN")
DEMO = "demo"
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
        wired: Fields declared live although only zeros were seen (``fallbacks``, ``iv_anomalies``,
            ``backtest_variance``, ``websocket``, ``massive``, ``tradier``).
        post_every_s: Seconds between two posts of a page, where its own rhythm cannot be seen yet.
        secrets: Secrets by name; never printed.
    """

    home: Path
    app: str
    store_url: str = ""
    cors_origins: tuple[str, ...] = ()
    wired: tuple[str, ...] = ()
    post_every_s: float = 5.0
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def base(self) -> Path:
        """The home that was asked for; the demo's own home lies inside it."""
        return self.home.parent if self.app == DEMO else self.home

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the store."""
        return self.store_url or f"sqlite:///{self.home / 'store.sqlite'}"

    @property
    def outputs(self) -> Path:
        """Folder of this app's reports and runs."""
        return self.home / self.app

    def secret(self, name: str) -> str | None:
        """The value of a secret, or None where it is not set."""
        return self.secrets.get(name)

    def redact(self, outgoing: str) -> str:
        """Text with every secret's value replaced by its name."""
        for name, value in sorted(self.secrets.items(), key=lambda s: -len(s[1])):  # The longer first: one may stand in another.
            outgoing = outgoing.replace(value, f"[{name}]")
        return outgoing


def project() -> Path | None:
    """The folder of the project this package runs from, or None where it was installed without it."""
    folder = Path(__file__).resolve().parent.parent
    return folder if (folder / "pyproject.toml").is_file() and (folder / "notebooks").is_dir() else None


def _secret(name: str, environ: Mapping[str, str]) -> str | None:
    path = environ.get(f"{name}_FILE")
    if not path:
        return environ.get(name) or None
    try:
        return Path(path).read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as problem:
        raise SettingsError(f"{name}_FILE names {path!r}, which cannot be read ({problem.__class__.__name__}). Name a readable text file.") from None


def redacted(outgoing: str, environ: Mapping[str, str] | None = None) -> str:
    """Text for people without any secret, also where the settings themselves cannot be read."""
    environ = os.environ if environ is None else environ
    found = {}
    for name in SECRETS:
        try:
            found[name] = _secret(name, environ)
        except SettingsError:
            continue  # Its file cannot be read, so nobody can have put it into the text either.
    return Settings(Path(), "", secrets={name: value for name, value in found.items() if value}).redact(outgoing)


def _from_file(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise SettingsError(f"{path} cannot be read as TOML: {problem}.") from None
    kinds = {"app": str, "store_url": str, "cors_origins": list, "wired": list, "post_every_s": (int, float)}
    for key, value in found.items():
        if key not in kinds:
            raise SettingsError(f"{path} sets {key!r}; it may set: {', '.join(kinds)}.{text.nearest(key, kinds)} Secrets belong in the environment.")
        if not isinstance(value, kinds[key]) or isinstance(value, bool):
            raise SettingsError(f"{path}: {key} is {value!r}, which is not of the kind that is wanted there.")
    if unknown := [w for w in found.get("wired", []) if w not in WIRED]:
        raise SettingsError(f"{path}: wired names {unknown[0]!r}; it may name: {', '.join(WIRED)}.{text.nearest(str(unknown[0]), WIRED)}")
    if not 0 < found.get("post_every_s", 5) <= 3600:
        raise SettingsError(f"{path}: post_every_s is {found['post_every_s']}; seconds above 0 and up to an hour were wanted.")
    return found


def load(home: str | Path | None = None, app: str | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """
    Which desk are we bound to?

    Args:
        home: Folder given by the caller; else ``OPS_HOME``; else the project's ``outputs/``.
        app: App given by the caller; else the only one configured; else ``desk``. ``demo`` lives in a home of its own inside.
        environ: The environment; the process's own by default.

    Raises:
        SettingsError: A settings file or variable that cannot be read as meant.
    """
    environ = os.environ if environ is None else environ
    given = home or environ.get("OPS_HOME")
    base = Path(given).expanduser().resolve() if given else (project() or Path.cwd()) / "outputs"
    found = _from_file(base / "settings.toml")
    name = app or environ.get("OPS_APP") or found.get("app") or "desk"
    if not name.replace("-", "").replace("_", "").isalnum() or len(name) > 40:
        raise SettingsError(f"an app's name is letters, digits, - and _, found {name!r}.")
    secrets = {s: value for s in SECRETS if (value := _secret(s, environ))}
    if name == DEMO:
        return Settings(home=base / DEMO, app=DEMO, secrets=secrets)
    origins = environ.get("OPS_CORS_ORIGINS")
    return Settings(
        home=base,
        app=name,
        store_url=environ.get("OPS_STORE_URL") or found.get("store_url", ""),
        cors_origins=tuple(o.strip().rstrip("/") for o in (origins.split(",") if origins else found.get("cors_origins", ())) if o.strip()),
        wired=tuple(found.get("wired", ())),
        post_every_s=float(found.get("post_every_s", next(f.default for f in fields(Settings) if f.name == "post_every_s"))),
        secrets=secrets,
    )

"""Define the valid content of settings.toml, except people, channels and hooks (`contacts_form`, `hooks_form`)."""

from collections.abc import Callable
from datetime import date, time
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, WrapValidator

from opslib.foundation import formatting, market_calendar
from opslib.foundation.config import addresses
from opslib.foundation.config.validation import Bounded, Problem, Table, Texts, expected, one_of, several, some_of


def _address(schemes: tuple[str, ...]) -> Callable[[str], str]:
    def check(given: str) -> str:
        is_right = addresses.is_address(given, schemes) and not addresses.parts(given).query
        if given and (not is_right or addresses.holds_login(given)):
            raise ValueError
        return given

    return check


def _each(is_right: Callable[[str], bool], spell: Callable[[str], str]) -> Callable[[list[str]], list[str]]:
    def check(given: list[str]) -> list[str]:
        if not all(is_right(spell(name.strip())) for name in given if name.strip()):
            raise ValueError
        return given

    return check


def _sessions(given: object, _: Any) -> Any:
    """Check the declared exceptions to the shipped sessions: days that were closed, or closed early."""
    if not isinstance(given, dict):
        raise several([Problem((), 'a table such as "2026-05-14" = "13:00" was expected.')])
    wrong = [
        f"{formatting.single_line(day, 40)} is {formatting.single_line(repr(closing), 40)}; a day, and either "
        f'"closed" or when it closed in New York, between {market_calendar.OPEN:%H:%M} and '
        f'{market_calendar.CLOSE:%H:%M}, was expected, such as "2026-05-14" = "13:00".'
        for day, closing in given.items()
        if not _is_session(day, closing)
    ]
    if wrong:
        raise several(Problem((), words) for words in wrong)
    return given


def _is_session(day: str, closing: object) -> bool:
    try:
        date.fromisoformat(day)
        closes = None if closing == "closed" else time.fromisoformat(str(closing))
    except ValueError:
        return False
    return closes is None or (closes.tzinfo is None and market_calendar.OPEN < closes < market_calendar.CLOSE)


Interval = Annotated[Bounded, Field(gt=0, le=3600), expected("a number above 0 and up to 3600")]
Rate = Annotated[Bounded, Field(gt=0, le=6000), expected("a number above 0 and up to 6000")]
Days = Annotated[Bounded, Field(gt=0, le=36_500), expected("a number above 0 and up to 36500")]
Megabytes = Annotated[Bounded, Field(gt=0, le=10_000_000), expected("a number above 0 and up to 10000000")]
Secret = Annotated[str, expected("a text", secret=True)]
Text = Annotated[str, expected("a text")]
WebAddress = Annotated[
    str,
    AfterValidator(_address(addresses.HTTP)),
    expected("an address such as https://HOST:PORT, without a name, password or query,", secret=True),
]
SocketAddress = Annotated[
    str,
    AfterValidator(_address(addresses.SOCKET)),
    expected(
        "an address such as wss://HOST:PORT/PATH, without a name or password, and without a query, which is a secret "
        "(set OPS_APP_WS_URL in the environment for one),",
        secret=True,
    ),
]
Hosts = Annotated[
    list[str],
    AfterValidator(_each(addresses.is_host, str.lower)),
    expected('a list of names or addresses without scheme, port or path, such as ["ops.example"],'),
]
Symbols = Annotated[
    list[str],
    AfterValidator(_each(addresses.is_symbol, str.upper)),
    expected('a list of symbols of underlyings, such as ["SPY"],'),
]
Process = Annotated[str | int, expected("a process id, or a file that holds it,")]
AnyTable = Annotated[dict[str, Any], expected("a table")]


class SettingsForm(Table):
    """The whole file."""

    hint: ClassVar[str] = " Secrets belong in the environment."

    app: Text = ""
    store_url: Secret = ""
    cors_origins: Texts = Field(default_factory=list)
    allowed_hosts: Hosts = Field(default_factory=list)
    wired: Annotated[list[str], some_of(known="wired")] = Field(default_factory=list)
    post_every_s: Interval = 5.0
    app_url: WebAddress = ""
    app_ws_url: SocketAddress = ""
    app_log: Text = ""
    app_pid: Process = ""
    massive_url: WebAddress = ""
    tradier_url: WebAddress = ""
    symbols: Symbols = Field(default_factory=list)
    fallback: Annotated[str, one_of(known="fallbacks")] = "tradier"
    massive_per_min: Rate = 1.0
    tradier_per_min: Rate = 1.0
    keep_runs_days: Days = 1.0
    keep_runs_mb: Megabytes = 1.0
    host_prefix: Texts = Field(default_factory=list)
    ca_file: Text = ""
    roles: AnyTable = Field(default_factory=dict)
    channels: AnyTable = Field(default_factory=dict)
    notify: AnyTable = Field(default_factory=dict)
    hooks: AnyTable = Field(default_factory=dict)
    sessions: Annotated[Any, WrapValidator(_sessions)] = Field(default_factory=dict)

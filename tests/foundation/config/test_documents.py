"""Test that a file is validated only if it has changed, and that cached results are never trusted blindly."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from opslib.foundation.config import contacts, documents, rules, settings
from opslib.foundation.errors import OpsError, RulesError, SettingsError
from opslib.jobs import schedule

FILES = {
    "settings.toml": 'store_url = "postgresql://ann:hunter2secret@db/ops"\nsymbols = ["SPY"]\n'
    '[channels.script]\nkind = "command"\ncommand = ["/bin/page", "t0p-secret-argument"]\n',
    "rules.toml": '[errors]\nwarning = 30\nfor = { warning = "10m", critical = "0s" }\n[pages]\nload_jitter_s = 2\n',
    "schedule.toml": '[mine]\nruns = "notebook n.ipynb"\nwhen = "08:00"\nparameters = { key = "t0p-secret-word" }\n',
}
KEPT = ("contacts.json", "rules.json", "schedule.json", "settings.json")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home with a file of each kind."""
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    return tmp_path


def read(home: Path) -> tuple[object, ...]:
    """Return the content of all files of a home, as opslib reads it."""
    rules._table.cache_clear()
    found = settings.load(home, None, {})
    people = contacts.read(found)
    return found, rules.load(home), people, schedule.read(home, people)


def imports(home: Path) -> set[str]:
    """Return the slow modules that a new process imports to read a home."""
    code = (
        "import sys; from pathlib import Path; from opslib.foundation.config import contacts, rules, settings; "
        "from opslib.jobs import schedule; home = Path(sys.argv[1]); found = settings.load(home, None, {}); "
        "rules.load(home); schedule.read(home, contacts.read(found)); print(*sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(home)], capture_output=True, text=True, check=True)
    return {"pydantic", "pydantic_core"} & set(ended.stdout.split())


def test_pydantic_is_imported_only_for_what_has_changed(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The first process validates, the next one does not; after a change the file is validated once more."""
    assert imports(home) and not imports(home)
    (home / "rules.toml").write_text("[errors]\nwarning = 31\n")
    assert imports(home) and not imports(home)
    assert not imports(tmp_path_factory.mktemp("empty"))  # The shipped files are validated by a test.


def test_cached_values_equal_fresh_ones(home: Path) -> None:
    """Cached and freshly read values are equal, in the same order; each form has a cache file of its own."""
    first, second = read(home), read(home)
    assert first == second and [repr(f) for f in first] == [repr(f) for f in second]
    assert tuple(sorted(p.name for p in (home / documents.FOLDER).iterdir())) == KEPT
    assert isinstance(second[1], rules.Rules) and list(second[1].rules) == list(rules.load().rules)


def test_the_cache_has_no_secret(home: Path) -> None:
    """The cache has no values of the settings, the contacts or the schedule."""
    read(home)
    kept = "".join(path.read_text() for path in (home / documents.FOLDER).iterdir())
    assert "secret" not in kept and "hunter2" not in kept and "script" not in kept


def spoil_with(content: bytes) -> Callable[[Path], None]:
    """Return a function that overwrites a cache file with other content."""
    return lambda path: path.write_bytes(content) and None


def flip(path: Path) -> None:
    """Change one digit of a limit, so that it is still JSON."""
    path.write_text(path.read_text().replace('"warning": 30', '"warning": 90').replace("{}", '{"a": 1}'))


def to_folder(path: Path) -> None:
    """Replace the file with a directory."""
    path.unlink()
    path.mkdir()


def to_pipe(path: Path) -> None:
    """Replace the file with a pipe that has no writer."""
    path.unlink()
    os.mkfifo(path)


def of_another(path: Path) -> None:
    """Replace the content with that of another form's cache."""
    other = path.with_name("rules.json" if path.name != "rules.json" else "contacts.json")
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_with(b""),
        spoil_with(b"\x80\x04\x95"),
        spoil_with(b"[" * 100_000),
        spoil_with(b'{"basis": 3}'),
        spoil_with(b"[1]"),
        flip,
        to_folder,
        to_pipe,
        of_another,
    ],
)
def test_a_damaged_or_foreign_cache_is_rebuilt(home: Path, spoil: Callable[[Path], None]) -> None:
    """Whatever is in place of the cache, the values are those of the files."""
    first = read(home)
    for name in KEPT:
        spoil(home / documents.FOLDER / name)
    assert read(home) == first == read(home)


def test_an_error_is_not_cached(home: Path) -> None:
    """An invalid file is rejected again, also after it was valid before."""
    read(home)
    for name, content in (("settings.toml", "wired = 4"), ("schedule.toml", "[mine]\nruns = 3")):
        was = (home / name).read_text()
        (home / name).write_text(content)
        for _ in range(2):
            with pytest.raises(SettingsError, match=name):
                read(home)
        (home / name).write_text(was)
    (home / "rules.toml").write_text("[errors]\nwarning = 60")
    for _ in range(2):
        with pytest.raises(RulesError):
            read(home)


def test_a_schedule_is_validated_again_when_its_channels_have_changed(home: Path) -> None:
    """If the settings change, the channels in the schedule are checked against them again."""
    (home / "schedule.toml").write_text('[daily-report]\ndeliver = ["script"]\n')
    read(home)
    (home / "settings.toml").write_text('symbols = ["SPY"]\n')
    with pytest.raises(SettingsError, match="deliver names 'script'"):
        read(home)


def test_a_home_that_cannot_be_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a cache everything is validated each time, with the same result."""
    first = read(home)
    (home / documents.FOLDER).rename(home / "before")
    (home / documents.FOLDER).write_text("a file where the folder would be")
    assert read(home) == first
    (home / "rules.toml").write_text("[errors]\nwarnin = 3")
    with pytest.raises(RulesError, match="Did you mean 'warning'"):
        read(home)


def test_verification_does_not_use_the_cache(home: Path) -> None:
    """A manipulated cache with a valid digest does not change the limits that a verification uses."""
    read(home)
    path = home / documents.FOLDER / "rules.json"
    kept = json.loads(path.read_text())
    kept["found"]["errors"]["warning"] = 40
    kept["digest"] = documents.digest(json.dumps(kept["found"]))
    path.write_text(json.dumps(kept))
    rules._table.cache_clear()
    assert dict(rules.load(home, uses_cache=False)["errors"].thresholds)["warning"] == 30


def test_concurrent_readers(home: Path) -> None:
    """Concurrent readers that all validate and write the cache read the same values, and leave no temporary file."""

    def ours(_: int) -> str:
        return repr(rules._validated(rules._shipped(), FILES["rules.toml"], "x")) + repr(settings.load(home, None, {}))

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ours, range(24)))) == 1
    read(home)
    assert tuple(sorted(p.name for p in (home / documents.FOLDER).iterdir())) == KEPT


WRONG_SETTINGS = """
symbol = ["SPY"]
massive_token = "t0p-secret-value"
store_url = ["postgresql://ann:hunter2secret@db/ops"]
app_url = "https://ann:hunter2secret@app"
massive_url = "ftp://massive"
app_ws_url = "wss://app/ws?token=hunter2secret"
allowed_hosts = ["https://ops.example"]
symbols = ["S P Y"]
wired = ["fallback"]
fallback = "tradire"
post_every_s = 0
keep_runs_days = true
sessions = { "14 May" = "closed", "2026-05-15" = "18:00" }
"""


def test_every_problem_of_the_settings_is_reported_at_once(tmp_path: Path) -> None:
    """Each problem is reported with its place and the nearest name, without a value that may be secret."""
    (tmp_path / "settings.toml").write_text(WRONG_SETTINGS)
    with pytest.raises(SettingsError) as refused:
        settings.load(tmp_path, None, {})
    message = str(refused.value)
    lines = message.splitlines()
    assert len(lines) == 14 and all(line.startswith(f"{tmp_path / 'settings.toml'}") for line in lines), message
    assert "hunter2secret" not in message and "t0p-secret-value" not in message
    for words in (
        "there is no key 'symbol'.*Did you mean 'symbols'",
        "there is no key 'massive_token'.*Secrets belong in the environment",
        "wired names 'fallback'.*Did you mean 'fallbacks'",
        "fallback is 'tradire'; tradier or none was expected. Did you mean 'tradier'",
        "post_every_s is 0; a number above 0 and up to 3600 was expected",
        "keep_runs_days is True; a number",
        "\\[sessions\\]: 14 May is 'closed'",
        "\\[sessions\\]: 2026-05-15 is '18:00'",
    ):
        with pytest.raises(SettingsError, match=words):
            raise refused.value


def test_every_problem_of_contacts_and_jobs_is_reported_at_once(tmp_path: Path) -> None:
    """All problems of roles, channels, times and jobs are reported at once."""
    (tmp_path / "settings.toml").write_text(
        '[roles."Tech Led"]\n[roles.DevOps]\nhours = "9-5"\nchannels = ["fax"]\n[channels.X]\nkind = "terminal"\n'
        '[channels.y]\nkind = "webhook"\nurl = "https://ann:hunter2secret@host"\n[notify]\nescalate = "1m"\n'
    )
    with pytest.raises(SettingsError) as refused:
        contacts.read(settings.load(tmp_path, None, {}))
    assert len(str(refused.value).splitlines()) == 6 and "hunter2secret" not in str(refused.value)
    (tmp_path / "schedule.toml").write_text(
        '[Mine]\nruns = "report dayly"\nwhen = "noon"\ngrace = "soon"\n[hourly]\nowner = "Tech Leed"\ndeliver=["fax"]\n'
    )
    with pytest.raises(SettingsError) as refused:
        schedule.read(tmp_path, contacts.Contacts())
    assert len(str(refused.value).splitlines()) == 6


def test_the_shipped_files_are_valid(tmp_path: Path) -> None:
    """No process validates the shipped limits and schedule, so this test checks them."""
    import tomllib
    from importlib import resources

    from opslib.foundation.config import rules_form
    from opslib.jobs import schedule_form

    assert rules_form.problems(tomllib.loads(rules._shipped()), "rules.toml", rules._KNOWN) == []
    shipped = tomllib.loads(resources.files("opslib.jobs").joinpath("schedule.toml").read_text(encoding="utf-8"))
    (tmp_path / "schedule.toml").write_text("\n".join(f"[{name}]" for name in shipped))
    assert list(schedule.read(tmp_path, contacts.Contacts())) == list(shipped)
    assert schedule_form.problems({}, {"x": {}}, "schedule.toml", {}) != []


def test_invalid_toml_is_reported_with_its_position(tmp_path: Path) -> None:
    """The message has the line and column of TOML's reader."""
    for name in FILES:
        (tmp_path / name).write_text("# a comment\nwarning = = 3\n")
    for reading in (
        lambda: settings.load(tmp_path, None, {}),
        lambda: rules.load(tmp_path),
        lambda: schedule.read(tmp_path, contacts.Contacts()),
    ):
        with pytest.raises(OpsError, match="at line 2, column 11"):
            reading()

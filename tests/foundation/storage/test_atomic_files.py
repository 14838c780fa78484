"""Test publication: all files or none, whenever the process is killed, and however many publish at once."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from opslib.foundation.storage import atomic_files

ENDINGS = (".html", ".ipynb", ".json", ".md")
STEPS = (
    (os, "replace"),
    (os, "rename"),
    (os, "link"),
    (os, "unlink"),
    (os, "rmdir"),
    (os, "fsync"),
    (os, "mkdir"),
    (shutil, "rmtree"),
)
MANY = """
import sys
from pathlib import Path
from opslib.foundation.storage import atomic_files

who, path = sys.argv[1], Path(sys.argv[2])
for n in range(25):
    atomic_files.publish(path, {e: f"{who}-{n}".encode() for e in (".html", ".ipynb", ".json", ".md")}, None)
"""


class Killed(BaseException):
    """Raised in place of killing the process at this step."""


def generation(name: str, endings: tuple[str, ...] = ENDINGS) -> dict[str, bytes]:
    """Return files whose content names their generation."""
    return {e: f"{name}{e}".encode() for e in endings}


def standing(folder: Path) -> dict[str, str]:
    """Return every visible file of a folder with its content."""
    return {p.name: p.read_text() for p in sorted(folder.iterdir()) if not p.name.startswith(".")}


def named(name: str, of: str, endings: tuple[str, ...] = ENDINGS) -> dict[str, str]:
    """Return the files of a generation under a name, as `standing` returns them."""
    return {f"{name}{e}": f"{of}{e}" for e in endings}


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> Callable[[], int]:
    """Raise at the given step and at every later one that changes the disk; return a function that counts the steps."""
    asked = 0

    def deadly(plain: Callable) -> Callable:
        def call(*arguments: object, **options: object) -> object:
            nonlocal asked
            asked += 1
            if asked >= step:
                raise Killed
            return plain(*arguments, **options)

        return call

    for module, name in STEPS:
        monkeypatch.setattr(module, name, deadly(getattr(module, name)))
    return lambda: asked


def killed_publish(path: Path, files: dict[str, bytes], keep_as: str | None, step: int) -> bool:
    """Publish and be killed at a step; return whether there was such a step."""
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, step)
        try:
            atomic_files.publish(path, files, keep_as)
        except Killed:
            return True
    return False


def test_published_files_are_in_their_folder(tmp_path: Path) -> None:
    """Published files are in their folder, which is created; nothing else is left there."""
    found = atomic_files.publish(tmp_path / "2026" / "03" / "day", generation("a"), None)
    assert sorted(found) == [tmp_path / "2026" / "03" / f"day{e}" for e in ENDINGS]
    assert standing(tmp_path / "2026" / "03") == named("day", "a")
    assert len(list((tmp_path / "2026" / "03").iterdir())) == len(ENDINGS)


@pytest.mark.parametrize("name", ["day [1]*?", "2026-03-10.b_daily", ".hidden", "ü {x} 'q'", "-"])
def test_special_characters_in_names(tmp_path: Path, name: str) -> None:
    """Names with special characters of patterns, shells or suffixes are used unchanged, for files and folders."""
    folder = tmp_path / f"in {name}"
    atomic_files.publish(folder / name, generation("a"), None)
    atomic_files.publish(folder / name, generation("b"), "r1")
    assert {p.name: p.read_text() for p in folder.iterdir()} == named(name, "b") | named(f"{name}.r1", "a")


def test_publishing_again_replaces(tmp_path: Path) -> None:
    """Without a name to keep them under, the older files are replaced."""
    for name in ("a", "b"):
        atomic_files.publish(tmp_path / "day", generation(name), None)
    assert standing(tmp_path) == named("day", "b")


def test_older_generations_are_kept(tmp_path: Path) -> None:
    """A new version takes the name; each older one is kept complete under its own name."""
    for name, keep_as in (("a", None), ("b", "r1"), ("c", "r2")):
        atomic_files.publish(tmp_path / "day", generation(name), keep_as)
    assert standing(tmp_path) == named("day", "c") | named("day.r1", "a") | named("day.r2", "b")


def test_other_files_are_unchanged(tmp_path: Path) -> None:
    """Publishing changes no other file of the folder, hidden or not."""
    others = {"dayx.html": "1", "day": "2", "day.txt": "3", ".day.html": "4", "day.r9.html": "5"}
    for name, content in others.items():
        (tmp_path / name).write_text(content)
    atomic_files.publish(tmp_path / "day", generation("a"), None)
    atomic_files.publish(tmp_path / "day", generation("b"), "r1")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == others | named("day", "b") | named("day.r1", "a")


@pytest.mark.parametrize("keep_as", [None, "r1"])
@pytest.mark.parametrize("then", ["finish", "publish another"])
def test_killed_at_any_step(tmp_path: Path, keep_as: str | None, then: str) -> None:
    """Whenever the process is killed, after the next access either nothing has changed or everything is published."""
    old, new = named("day", "a"), named("day", "b") | (named("day.r1", "a") if keep_as else {})
    seen, step = [], 0
    while True:
        step += 1
        folder = tmp_path / str(step)
        atomic_files.publish(folder / "day", generation("a"), None)
        if not killed_publish(folder / "day", generation("b"), keep_as, step):
            break
        ready = list(folder.glob(".*.ready"))
        if not ready and standing(folder) != new:
            assert standing(folder) == old, f"step {step}: changed before it was made ready"
        if then == "finish":
            atomic_files.finish(folder)
        else:
            atomic_files.publish(folder / "other", {".txt": b"x"}, None)
        after = standing(folder)
        after.pop("other.txt", None)
        assert after in (old, new), f"step {step}"
        assert not ready or after == new, f"step {step}: made ready, and lost"
        assert not list(folder.glob(".*.ready")), f"step {step}: left behind"
        seen.append(after == new)
    assert standing(folder) == new
    assert seen == sorted(seen), "once committed, always committed"
    assert False in seen and seen.count(True) > len(ENDINGS), seen


def killed_at_notebook(plain: Callable[..., None]) -> Callable[[Path, Path], None]:
    """Return a file move that is killed at a notebook."""

    def move(source: Path, target: Path) -> None:
        if Path(target).suffix == ".ipynb":
            raise Killed
        plain(source, target)

    return move


def test_killed_again_while_finishing(tmp_path: Path) -> None:
    """If a process is killed while it completes another one's publication, a third one completes it."""
    step = 0
    while True:
        step += 1
        folder = tmp_path / str(step)
        atomic_files.publish(folder / "day", generation("a"), None)
        with pytest.MonkeyPatch.context() as patch:  # Killed after the first move.
            patch.setattr(os, "replace", killed_at_notebook(os.replace))
            with pytest.raises(Killed):
                atomic_files.publish(folder / "day", generation("b"), "r1")
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, step)
            try:
                atomic_files.finish(folder)
                reached = False
            except Killed:
                reached = True
        atomic_files.finish(folder)
        assert standing(folder) == named("day", "b") | named("day.r1", "a"), f"step {step}"
        if not reached:
            break
    assert step > 4


def test_finishing_twice_changes_nothing(tmp_path: Path) -> None:
    """Without an incomplete publication, finishing changes nothing."""
    atomic_files.publish(tmp_path / "day", generation("a"), None)
    atomic_files.finish(tmp_path)
    atomic_files.finish(tmp_path)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == named("day", "a")


def test_a_write_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk is full, publishing raises, the old files are unchanged, and no temporary file is left."""
    atomic_files.publish(tmp_path / "day", generation("a"), None)
    plain, calls = atomic_files._write, []

    def full(path: Path, content: bytes) -> None:
        calls.append(path)
        if len(calls) == 3:
            path.write_bytes(content[:1])
            raise OSError(28, "No space left on device")
        plain(path, content)

    monkeypatch.setattr(atomic_files, "_write", full)
    with pytest.raises(OSError, match="No space"):
        atomic_files.publish(tmp_path / "day", generation("b"), "r1")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == named("day", "a")


def test_publishers_of_one_name_do_not_mix(tmp_path: Path) -> None:
    """Processes that publish the same name at once all succeed, and the final files are all from one of them."""
    for attempt in range(3):
        path = tmp_path / str(attempt) / "day"
        running = [
            subprocess.Popen([sys.executable, "-c", MANY, who, str(path)], stderr=subprocess.PIPE, text=True)
            for who in "abcd"
        ]
        said = [p.communicate(timeout=60)[1] for p in running]
        assert [p.returncode for p in running] == [0, 0, 0, 0], next(s for s in said if s)[-400:]
        found = {p.name: p.read_text() for p in path.parent.iterdir()}
        assert len(found) == len(ENDINGS) and len(set(found.values())) == 1, found


def test_a_slow_publisher_and_a_quick_one_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a process is delayed between two moves while another publishes the same name, the files are not mixed."""
    program = (
        "import sys; from pathlib import Path; from opslib.foundation.storage import atomic_files as publication; "
        "publication.publish(Path(sys.argv[1]), {e: f'quick{e}'.encode() for e in ('.html', '.ipynb', '.json', "
        "'.md')}, None)"
    )
    plain, others = os.replace, []

    def slow(source: object, target: object) -> None:
        if str(target).endswith(".json") and not others:
            others.append(
                subprocess.Popen(
                    [sys.executable, "-c", program, str(tmp_path / "day")], stderr=subprocess.PIPE, text=True
                )
            )
            # With a lock the quick one waits for the slow one, so this wait needs a timeout.
            with contextlib.suppress(subprocess.TimeoutExpired):
                others[0].wait(2)
        plain(source, target)

    monkeypatch.setattr(os, "replace", slow)
    try:
        atomic_files.publish(tmp_path / "day", generation("slow"), None)
    finally:
        said = others[0].communicate(timeout=30)[1]
    assert others[0].returncode == 0, said
    assert standing(tmp_path) in (named("day", "quick"), named("day", "slow"))


def test_a_publication_that_cannot_finish_does_not_block_others(tmp_path: Path) -> None:
    """Files that can never be moved do not prevent another name in the folder from being published."""
    (tmp_path / "day.html").mkdir()
    with pytest.raises(OSError):
        atomic_files.publish(tmp_path / "day", generation("a"), None)
    atomic_files.publish(tmp_path / "other", generation("b"), None)
    assert standing_files(tmp_path, "other") == named("other", "b")


def standing_files(folder: Path, name: str) -> dict[str, str]:
    """Return the files under one name with their content."""
    return {p.name: p.read_text() for p in folder.glob(f"{name}.*") if p.is_file()}

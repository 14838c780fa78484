"""Hold the reply of a command: for programs, for people, and whether it was done."""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    pass


class Reply(NamedTuple):
    """What became of it: for programs, for people, and whether it was done."""

    values: Any
    words: str
    done: bool = True

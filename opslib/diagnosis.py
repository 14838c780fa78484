"""This module knows what is the matter, and nothing else."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opslib.panels import View


@dataclass(frozen=True)
class Diagnosis:
    """What is the matter."""

    cause: str = "undetermined"
    subject: str | None = None
    confidence: float = 0.0

    @property
    def words(self) -> str:
        """In one sentence."""
        return f"{self.cause}"

    def as_json(self) -> dict[str, Any]:
        """For a program."""
        return {"cause": self.cause, "subject": self.subject, "confidence": self.confidence, "words": f"cause {self.cause}"}


def diagnose(view: "View") -> Diagnosis:
    """What is the matter?"""
    return Diagnosis()

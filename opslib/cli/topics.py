"""Read the help topics: the reference pages in ``opslib/docs``."""

from importlib import resources


def names() -> list[str]:
    """Return the topics in alphabetical order."""
    return sorted(page.name.removesuffix(".md") for page in _folder().iterdir() if page.name.endswith(".md"))


def text(name: str) -> str:
    """Return a topic's page as Markdown."""
    return (_folder() / f"{name}.md").read_text(encoding="utf-8")


def _folder() -> resources.abc.Traversable:
    return resources.files("opslib") / "docs"

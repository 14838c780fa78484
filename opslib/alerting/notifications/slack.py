"""
Lay out a message as Slack's blocks, within the limits of its Block Kit.

A text that is too long is cut, a command never: it is left out, as it is in the text of the message. External text is
escaped before it is measured.
"""

from collections.abc import Callable, Iterable
from typing import Any

from opslib.alerting.notifications.message import DO_FIRST, Code, Message, entities, free, in_markup
from opslib.foundation import formatting

# Most characters of each text, and most of each kind of element (docs.slack.dev/reference/block-kit).
HEADER, SECTION, FIELD, CONTEXT, BUTTON, URL = 150, 3000, 2000, 2000, 75, 3000
HEAD, FIELDS, BUTTONS, ELEMENTS = 100, 10, 25, 10
SECTIONS = 40  # Of a message's lines: with the other blocks fewer than Slack's 50.


def payload(message: Message) -> dict[str, Any]:
    """Return the body of a webhook: the blocks, and the text for previews and for chats that do not know blocks."""
    return {"text": message.slack, "blocks": blocks(message)}


def blocks(message: Message) -> list[dict[str, Any]]:
    """Return the blocks of a message: what is broken, what to do first, the short answers, links, then the rest."""
    found: list[dict[str, Any]] = [{"type": "header", "text": _plain(_fitting(message.heading, HEADER, entities))}]
    if message.do_first:
        found.append(_section(_line(DO_FIRST, message.do_first)))
    if message.short_answers:
        fields = [_markup(_field(head, words)) for head, words in message.short_answers[:FIELDS]]
        found.append({"type": "section", "fields": fields})
    # Free text has no order of ours.
    texts = _joined(_line(*line) for line in (message.texts if message.state else message.lines))
    found += [_section(text) for text in texts][:SECTIONS]
    if links := [(name, url) for name, url in message.buttons if len(url) <= URL]:
        found.append({"type": "actions", "elements": [_button(name, url) for name, url in links[:BUTTONS]]})
    if message.state:
        found += _context([_fitting(" ".join(message.remarks), CONTEXT, free)])
        commands = _joined((_line(*line, CONTEXT) for line in message.commands), CONTEXT)
        found += _context([message.commands_heading, *commands])
    return found


def _context(texts: Iterable[str]) -> list[dict[str, Any]]:
    """Return the block of secondary texts, which Slack shows small; none without a text."""
    elements = [_markup(text) for text in texts if text]
    return [{"type": "context", "elements": elements[:ELEMENTS]}] if elements else []


def _line(head: str, words: str, most: int = SECTION) -> str:
    return _fitting(words, most, lambda shown: in_markup(formatting.single_line(head, HEAD), shown))


def _field(head: str, words: str) -> str:
    shown = "\n".join(Message.items(head, words))
    return _fitting(shown, FIELD, lambda shown: "\n".join([f"*{free(head)}*", *map(free, shown.split("\n"))]))


def _button(name: str, url: str) -> dict[str, Any]:
    return {"type": "button", "text": _plain(_fitting(name, BUTTON, entities)), "url": url}


def _plain(text: str) -> dict[str, Any]:
    return {"type": "plain_text", "text": text, "emoji": False}


def _markup(text: str) -> dict[str, Any]:
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": _markup(text)}


def _fitting(words: str, most: int, escaped: Callable[[str], str]) -> str:
    """Return a text escaped, cut so that it has at most so many characters; empty for a command that is too long."""
    found, kept = escaped(words), len(words)
    while len(found) > most:
        if isinstance(words, Code):
            return ""
        kept = min(kept - 1, most)
        found = escaped(f"{words[:kept].rstrip()}\u2026")
    return found


def _joined(lines: Iterable[str], most: int = SECTION) -> list[str]:
    """Join lines to texts that have at most so many characters each."""
    found: list[str] = []
    for line in filter(None, lines):
        if found and len(found[-1]) + 1 + len(line) <= most:
            found[-1] += f"\n{line}"
        else:
            found.append(line)
    return found

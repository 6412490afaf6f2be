"""Texts that UTF-8 cannot encode: those with half of a surrogate pair, which broken JSON escapes produce."""

from __future__ import annotations


def lone_surrogate(text: str) -> str | None:
    """The fault of a text that contains half of a surrogate pair; None for all others.

    Args:
        text: Any text; the check is almost free for ASCII.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return (
            f"character {error.start} is half of a surrogate pair, {text[error.start]!a}, which is not "
            "Unicode; correct the text, or replace such characters with text.encode('utf-8', "
            "'replace').decode()"
        )
    return None

"""Texts that UTF-8 cannot encode: with half of a surrogate pair, as broken JSON escapes give."""

from __future__ import annotations


def lone_surrogate(text: str) -> str | None:
    """What is wrong with a text that has half of a surrogate pair; None for all others.

    Args:
        text: Any text; one in ASCII costs next to nothing.
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

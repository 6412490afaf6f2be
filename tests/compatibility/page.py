"""The page. A further table is a further module with a function that makes its sections, named here."""

from __future__ import annotations

from compatibility import arguments, exporting, later, rerankers, sampling, trainer
from compatibility.table import STATES, Section

_HEAD = """\
# Compatibility

Written by `PYTHONPATH=tests python -m compatibility`; don't edit by hand. Every name of the reference pages, and
how it differs:

"""


def sections() -> list[Section]:
    """All sections, in the order of the page."""
    embedders = [*trainer.sections(), *arguments.sections(), *sampling.sections()]
    return [*embedders, *rerankers.sections(), *exporting.sections(), *later.sections()]


def page() -> str:
    """The whole page."""
    states = "".join(f"- **{state}**: {meaning}\n" for state, meaning in STATES.items())
    return _HEAD + states + "\n" + "\n".join(section.text() for section in sections())

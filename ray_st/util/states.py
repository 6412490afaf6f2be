"""What determines the results of a part, as text: to recognize results that another process left."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


class UnknownState(ValueError):
    """What determines the results of a part cannot be written down exactly."""


@runtime_checkable
class HasState(Protocol):
    """A part that can write down all that determines its results."""

    def state(self) -> str:
        """Equal only for parts that give the same results for the same inputs, in any process.

        Raises:
            UnknownState: If it cannot tell; the message names the part and says why.
        """


def state_of(part: object) -> str:
    """All that determines the results of a part, as text; "" for None.

    Raises:
        UnknownState: If the part cannot tell.
    """
    match part:
        case None:
            return ""
        case HasState():
            return part.state()
        case object(__qualname__=str(name)):
            pass
        case _:
            name = type(part).__qualname__
    raise UnknownState(f"{name} does not tell what its results depend on")

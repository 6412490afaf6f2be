"""What happens to an argument that the current transformers lacks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Any

from ray_st.util.secrets import without_secrets

if TYPE_CHECKING:
    from transformers import TrainingArguments

_CALLER = 6  # warn, apply, apply_effects, __post_init__, the dataclass's __init__, the caller


@dataclass(frozen=True)
class Becomes:
    """The argument is an older name of another, or a special value of it; it is then reset to its default.

    Args:
        new: The current argument.
        value: Value of the current argument; by default the given value.
    """

    new: str
    value: Any = None

    def note(self) -> str:
        """Explanation for users."""
        given = "" if self.value is None else f"={self.value!r}"
        return f"becomes `{self.new}{given}`"

    def apply(self, args: TrainingArguments, name: str, given: object) -> None:
        """Sets the current argument.

        Raises:
            ValueError: If it was given a different value.
        """
        value = given if self.value is None else self.value
        current = getattr(args, self.new)
        if current not in (default_of(args, self.new), value):
            shown = without_secrets({name: given, self.new: current})
            raise ValueError(
                f"{name}={shown[name]!r} and {self.new}={shown[self.new]!r} contradict each other: {name} is "
                f"the older form of {self.new}. Give {self.new} alone."
            )
        setattr(args, self.new, value)
        setattr(args, name, default_of(args, name))


@dataclass(frozen=True)
class Kept:
    """The argument keeps its value and is read where it is needed.

    Args:
        what: Note for users.
    """

    what: str

    def note(self) -> str:
        """Explanation for users."""
        return self.what

    def apply(self, args: TrainingArguments, name: str, given: object) -> None:
        """Does nothing: the value stays."""


@dataclass(frozen=True)
class Does(Kept):
    """The argument takes effect through others; it is then reset to its default.

    Args:
        what: Note for users.
        effect: Called with the arguments and the value.
    """

    effect: Callable[[Any, Any], None]

    def apply(self, args: TrainingArguments, name: str, given: object) -> None:
        """Sets the other arguments."""
        self.effect(args, given)
        setattr(args, name, default_of(args, name))


@dataclass(frozen=True)
class Unused(Kept):
    """The argument has no effect; a warning says so.

    Args:
        what: Why, and what to use instead.
        today: Values that match the current behaviour and need no warning.
    """

    today: tuple[Any, ...] = ()

    def apply(self, args: TrainingArguments, name: str, given: object) -> None:
        """Warns."""
        if given not in self.today:
            warnings.warn(f"{name}={given!r} has no effect: {self.what}.", UserWarning, stacklevel=_CALLER)


Effect = Becomes | Kept
"""``Does`` and ``Unused`` included: each is a ``Kept`` with something to do."""


def default_of(args: TrainingArguments | type[TrainingArguments], name: str) -> Any:
    """The default of an argument.

    Args:
        args: The arguments, or their class.
        name: The argument.
    """
    field = args.__dataclass_fields__[name]
    return field.default if field.default_factory is MISSING else field.default_factory()


def apply_effects(args: TrainingArguments, effects: dict[str, Effect]) -> None:
    """Applies the effect of every argument that differs from its default.

    Args:
        args: The arguments; changed in place.
        effects: Effects by argument, in the order in which they apply; unknown names are skipped, as releases
            of transformers differ.

    Raises:
        ValueError: If two arguments contradict each other.
    """
    for name, effect in effects.items():
        if name in args.__dataclass_fields__ and (value := getattr(args, name)) != default_of(args, name):
            effect.apply(args, name, value)

"""The callbacks that a run file lists."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from ray_st.cli.named_class import find_class
from ray_st.cli.run_checks import RunFileError, at, check_keys
from ray_st.cli.runfile import CallbackSpec

if TYPE_CHECKING:
    from transformers import TrainerCallback


def make_callbacks(specs: tuple[CallbackSpec, ...], where: str) -> list[TrainerCallback]:
    """Makes callbacks: those of transformers by name, custom ones by import path.

    Args:
        specs: What the run file says.
        where: Location of the list in the file, for errors.

    Raises:
        RunFileError: If a callback, or one of its options, is unknown.
    """
    return [_make(spec, at(where, place)) for place, spec in enumerate(specs)]


def _make(spec: CallbackSpec, where: str) -> TrainerCallback:
    from transformers import EarlyStoppingCallback, TrainerCallback

    known = {"EarlyStoppingCallback": EarlyStoppingCallback}
    cls = find_class(spec.type, "callback", known, TrainerCallback, at(where, "type"))
    parameters = inspect.signature(cls).parameters
    if not any(part.kind is inspect.Parameter.VAR_KEYWORD for part in parameters.values()):
        check_keys(spec.options, parameters, where)
    try:
        made: TrainerCallback = cls(**spec.options)
    except (TypeError, ValueError) as error:
        raise RunFileError(f"{where}: {error}") from error
    return made

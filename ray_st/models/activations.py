"""Activation functions that a model folder names."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ray_st.models.folder_files import ModelFolderError
from ray_st.models.module_table import import_name, live_part

logger = logging.getLogger(__name__)

Activation = Callable[[Tensor], Tensor]

_KNOWN = {name: vars(nn)[name] for name in [*nn.modules.activation.__all__, "Identity"]}


def activation_name(activation: Activation) -> str:
    """The name under which a folder stores an activation: that of its class."""
    kind = type(activation)
    return f"{kind.__module__}.{kind.__qualname__}"


def warn_of_arguments(activation: Activation) -> None:
    """Warns of an activation of ``torch.nn`` whose arguments are lost when it is saved by name."""
    kind: Any = type(activation)
    if kind in _KNOWN.values() and repr(kind()) != repr(activation):
        text = "The folder format cannot store the arguments of %r: it will be read as %r."
        logger.warning(text, activation, kind())


def read_activation(path: str, trust_remote_code: bool, what: str) -> Activation:
    """The activation that a folder names.

    Args:
        path: The dotted name of its class.
        trust_remote_code: Whether a class from outside ``torch.nn`` may be imported.
        what: What it is the activation of, for errors.

    Raises:
        ModelFolderError: If it would have to be imported and the folder is not trusted.
    """
    package, _, name = path.rpartition(".")
    if package.split(".")[0] == "torch" and name in _KNOWN:
        known: Activation = _KNOWN[name]()
        return known
    if isinstance(part := live_part(path), nn.Module):
        return copy.deepcopy(part)  # with its arguments, which the folder does not hold
    if trust_remote_code:
        imported: Activation = import_name(path)()
        return imported
    raise ModelFolderError(
        f"{what} {path!r} is not one of torch.nn's activations. It would have to be "
        "imported; pass trust_remote_code=True if you trust this model folder."
    )

"""OpenVINO and its quantization, which by default report their use to their makers: here they don't."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

from ray_st.util.packages import load_extra

_TELEMETRY = "openvino_telemetry"


def load_quietly(package: str, purpose: str) -> Any:
    """One of the packages, which then reports to nobody.

    Args:
        package: "openvino" or "nncf".
        purpose: What needs it, for the error message.

    Raises:
        ImportError: If it is not installed; the message says how to install it.
    """
    _without_telemetry()
    return load_extra(package, "openvino", purpose)


def _without_telemetry() -> None:
    """Makes the package that reports look as if it were not installed, unless somebody has loaded it before.

    Without a terminal it takes silence for consent, and writes an identifier into the home directory.
    """
    modules: dict[str, Any] = sys.modules
    modules.setdefault(_TELEMETRY, None)  # how Python marks a module that cannot be imported


@cache
def openvino_core() -> Any:
    """This process's only ``openvino.Core``, which lasts as long as the process.

    With its first model, a Core installs a stack for signals in its thread; when it ends, it unmaps this
    stack and installs the one before. Of two that end in the order in which they began, the first one's
    unmapped stack stays installed, and the next signal with a handler in Python ends the process.

    Raises:
        ImportError: If openvino is not installed.
    """
    return load_quietly("openvino", 'backend="openvino"').Core()

"""Values that go to workers unopened."""

from __future__ import annotations

from typing import Any

import ray
from ray import cloudpickle


class PickledRef:
    """A value in the object store that nothing between here and a worker looks into.

    Ray Train's controller loads what it hands on, and would first import all that it needs; what Ray exports
    to dashboards shows no part of it; and a module that a worker lacks is an ``ImportError`` there, no error
    of Ray's.

    Args:
        value: Anything that cloudpickle takes.
    """

    def __init__(self, value: Any) -> None:
        self._reference = ray.put(cloudpickle.dumps(value))

    def open(self) -> Any:
        """The value, made anew."""
        return cloudpickle.loads(ray.get(self._reference))

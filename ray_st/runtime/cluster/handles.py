"""Typed handles of what lives in the cluster: actors, and values that stay pickled until they are opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayTaskError

T = TypeVar("T")


class ActorMethod(Protocol):
    """A method of an actor."""

    def remote(self, *arguments: Any) -> ray.ObjectRef[Any]:
        """Calls the method without waiting; returns a reference to its result."""


if TYPE_CHECKING:

    class Actor(ActorHandle[Any]):
        """Ray's handle of an actor, with methods; Ray declares that access to one never returns."""

        def __getattr__(self, name: str) -> ActorMethod: ...  # type: ignore[override]

else:
    Actor = ActorHandle


def start_actor(kind: type, *arguments: Any, **options: Any) -> Actor:
    """Starts an actor.

    Args:
        kind: Its class.
        *arguments: Its constructor's arguments.
        **options: Ray's options of an actor, such as ``num_cpus``.
    """
    actor_class: Any = ray.remote(kind)
    actor: Actor = actor_class.options(**options).remote(*arguments)
    return actor


def result_of(references: ray.ObjectRef[Any] | list[ray.ObjectRef[Any]]) -> Any:
    """What tasks or actors returned, or the error that they raised, without Ray's around it."""
    try:
        return ray.get(references)
    except RayTaskError as error:
        raise error.cause from error


class PickledRef(Generic[T]):
    """A value in the object store that stays pickled between this process and another.

    Models travel without the weights that lie in their files; see :mod:`ray_st.runtime.cluster.pickled`.

    Ray Train's controller unpickles what it passes on, and would have to import everything the value needs;
    Ray's dashboard exports do not show its content; and a module missing on a worker raises an
    ``ImportError`` there instead of an error of Ray's.

    Args:
        value: Any value that cloudpickle supports.
    """

    def __init__(self, value: T) -> None:
        # Here, as Ray Train's controller imports this file, and needs no torch.
        from ray_st.runtime.cluster.pickled import dump

        self._reference = ray.put(dump(value))

    def open(self) -> T:
        """A fresh copy of the value, with tensors in CPU memory.

        Raises:
            UnreachableWeights: If this node cannot open a file that holds weights of a model.
        """
        from ray_st.runtime.cluster.pickled import load

        value: T = load(ray.get(self._reference))
        return value

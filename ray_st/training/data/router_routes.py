"""A model's Router and its training data: the route of each text column; raises if unspecified."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from torch import nn

from ray_st.data.batch_source import BatchSource
from ray_st.data.column_spec import ColumnSpec
from ray_st.data.routes import Route, RouterMapping, tasks_of
from ray_st.models.asym import Asym
from ray_st.models.stack import Stack


def routers_of(model: nn.Module) -> list[Asym]:
    """The modules of a model that route texts through one of several sequences of modules."""
    return [part for part in model.modules() if isinstance(part, Asym)]


def check_router_mapping(model: nn.Module, mapping: RouterMapping | None) -> None:
    """Raises if a model has a Router and no mapping specifies the routes of columns.

    Args:
        model: The model.
        mapping: ``args.router_mapping``.

    Raises:
        ValueError: Naming the setting to add.
    """
    routers = routers_of(model)
    if mapping and not routers:
        warnings.warn("router_mapping has no effect: the model has no Router. Leave it out.", stacklevel=3)
    if not mapping and (router := _needing_task(routers)):
        raise ValueError(_missing_mapping(router, "The model", ["question", "answer"]))


def checked_routes(
    model: Stack, mapping: RouterMapping | None, columns: ColumnSpec, dataset: str, label: str
) -> dict[str, Route]:
    """The routes of a dataset's text columns, as :func:`routes_of` gives them.

    Args:
        model: The model.
        mapping: ``args.router_mapping``.
        columns: The dataset's columns.
        dataset: Its name; a single one has the name "".
        label: Its name in error messages.

    Raises:
        ValueError: If none of its columns has a task although one is needed, or a column's route does not
            exist.
    """
    routers = routers_of(model)
    tasks = tasks_of(mapping, columns, dataset)
    if not tasks and (router := _needing_task(routers)):
        raise ValueError(_missing_mapping(router, f"{label}: the model", columns.texts))
    for router in routers:
        for column in columns.texts:
            try:
                router.route(tasks.get(column), "text")
            except ValueError as error:
                raise ValueError(f"{label}, column {column!r} in args.router_mapping: {error}") from error
    return routes_of(model, mapping, columns, dataset)


def routes_of(
    model: Stack, mapping: RouterMapping | None, columns: ColumnSpec, dataset: str
) -> dict[str, Route]:
    """The route of each text column of a dataset; none for a model that has no Router.

    Args:
        model: The model.
        mapping: ``args.router_mapping``.
        columns: The dataset's columns.
        dataset: Its name; a single one has the name "".
    """
    if not routers_of(model):
        return {}
    tasks = tasks_of(mapping, columns, dataset)
    found = ((column, tasks.get(column)) for column in columns.texts)
    return {column: Route(task, model.route_encoder(task)) for column, task in found}


def uses_all_rows(
    model: nn.Module, mapping: RouterMapping | None, datasets: Mapping[str, ColumnSpec]
) -> bool:
    """Whether a batch of any of the datasets uses all weights of the model's Routers.

    Args:
        model: The model.
        mapping: ``args.router_mapping``.
        datasets: The columns of each dataset, by name.
    """
    for router in routers_of(model):
        for name, columns in datasets.items():
            tasks = tasks_of(mapping, columns, name)
            taken = [router.text_row(tasks.get(column)) for column in columns.texts]
            reached = {id(weight) for row in taken for weight in row.parameters()}
            if any(weight.requires_grad and id(weight) not in reached for weight in router.parameters()):
                return False
    return True


def skips_rows(model: nn.Module, mapping: RouterMapping | None, source: BatchSource | None) -> bool:
    """Whether some dataset's batches leave routes of the Router unused, so that their weights do not change.

    Args:
        model: The model.
        mapping: ``args.router_mapping``.
        source: The training data; None if batches come from a user-provided loader.
    """
    if source is None:
        return bool(routers_of(model))
    datasets = {name: window.columns for name, window in zip(source.names, source.windows, strict=True)}
    return not uses_all_rows(model, mapping, datasets)


def _needing_task(routers: Sequence[Asym]) -> Asym | None:
    return next((router for router in routers if router.needs_task), None)


def _missing_mapping(router: Asym, subject: str, columns: Sequence[str]) -> str:
    routes = list(router.sub_modules)
    example = {column: routes[min(number, len(routes) - 1)] for number, column in enumerate(columns)}
    return (
        f"{subject} has a Router with the routes {routes}, and no text column is assigned to one: all would "
        "take the default route. Set router_mapping in the training arguments, such as "
        f"router_mapping={example}."
    )

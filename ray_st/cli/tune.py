"""Run the hyperparameter search of a run file's `search` section; the best run is written as a run file."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, get_type_hints

import yaml

from ray_st.cli.raw_run import load_run, with_value
from ray_st.cli.run_checks import RunFileError, at, check_keys, check_mapping, check_types
from ray_st.cli.runfile import LossSpec, RunFile, kind_of, parse_run
from ray_st.util.names import did_you_mean

if TYPE_CHECKING:
    from torch import nn

    from ray_st.model_trainer import ModelTrainer

Params: TypeAlias = Mapping[str, Any]
"""The hyperparameters of a trial, by name."""

BEST = "best.yaml"
_ARGS, _MODEL, _LOSS, _TRAIN = "args.", "model.", "loss.", "data.train."
_PREFIXES = (_ARGS, _MODEL, _LOSS, _TRAIN)
_OWN = ("space", "objective", "direction", "trials", "backend")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "file", metavar="RUN.yaml", help="a run file with a `search` section; see docs/search.md"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as search.trials=50")
    parser.add_argument("--check", action="store_true", help="validate the search and stop before Ray starts")


def run(options: argparse.Namespace) -> None:
    """Runs the search, and writes the best run to the search's folder as ``best.yaml``.

    Raises:
        RunFileError: If the search cannot work as described.
    """
    raw = load_run(options.file, options.overrides)
    where = at(options.file, "search")
    search = _search_section(raw.pop("search", None), where)
    space = _space(search["space"], at(where, "space"))
    trainer = _trainer(raw, options.file)
    given = {name: value for name, value in search.items() if name not in _OWN}
    given.setdefault("name", Path(options.file).stem)
    given["points_to_evaluate"] = [
        {_name(path): value for path, value in point.items()}
        for point in search.get("points_to_evaluate", ())
    ]
    if not isinstance(search["space"], str) and any(name.startswith(_TRAIN) for name in search["space"]):
        given["data_init"] = _DataInit(raw, options.file)
    trials = search.get("trials", 20)
    if options.check:
        from ray_st.tune.checked_search import check_search

        checked = check_search(trainer, space, search["objective"], trials, search["direction"], **given)
        print("\n".join(filter(None, [checked.explained, f"{options.file}: OK: the search is valid"])))
        return
    found = trainer.hyperparameter_search(
        space, search["objective"], trials, search["direction"], search.get("backend"), **given
    )
    folder = Path(str(trainer.args.output_dir)) / given["name"]
    for place, best in enumerate(found if isinstance(found, list) else [found]):
        path = folder / (BEST if place == 0 else f"best-{place}.yaml")
        write_best(path, raw, best.hyperparameters)
        _copy(path, trainer)
        seeds = f" (mean of {len(best.confirmed.values)} fresh seeds)" if best.confirmed else ""
        print(f"trial {best.run_id}: {best.objective}{seeds}; retrain it with: ray-st train {path}")


def _copy(path: Path, trainer: ModelTrainer) -> None:
    """Copies a file from the search's folder to that in the user's storage, if there is one."""
    from ray_st.runtime.tune.search_home import search_home
    from ray_st.study.mirror import Home

    home = search_home(trainer.run_config, path.parent.absolute())
    if home is not None:
        Home(home.filesystem, home.path).write(path.name, path.read_bytes())


def _search_section(value: object, where: str) -> dict[str, Any]:
    from ray_st.study.default_space import DEFAULT
    from ray_st.study.search_options import SearchOptions

    if value is None:
        raise RunFileError(f"{where}: missing; it says what to search")
    search = check_mapping(value, where)
    check_keys(
        search, [*_OWN, *(part.name for part in fields(SearchOptions) if part.name != "data_init")], where
    )
    for name in ("space", "objective", "direction"):
        if search.get(name) is None:
            raise RunFileError(f"{at(where, name)}: missing")
    check_types(search, {**get_type_hints(SearchOptions), "trials": int, "backend": str}, where)
    if search["space"] != DEFAULT:
        check_mapping(search["space"], at(where, "space"))
    return search


def _space(spec: Mapping[str, Any] | str, where: str) -> Any:
    """The search space, after checking where its names lead."""
    from ray_st.study.plain_space import plain_space

    if isinstance(spec, str):
        return spec
    for name in spec:
        if not name.startswith(_PREFIXES):
            known = [
                f"args.{name}",
                "args.learning_rate",
                "model.max_seq_length",
                "loss.name",
                "data.train.rows",
            ]
            raise RunFileError(
                f"{at(where, name)}: a parameter is args.…, model.…, loss.… or data.train.…; "
                f"{did_you_mean(name, known)}"
            )
    return plain_space(spec, where, _name)


def _name(path: str) -> str:
    """A parameter's name in the search: arguments by their own name, others by their path."""
    return path.removeprefix(_ARGS)


def _trainer(raw: Mapping[str, Any], source: str) -> ModelTrainer:
    from ray_st.cli import run_parts

    described = parse_run(raw, source)
    run_parts.required_model(described)
    kind = kind_of(described)
    run_parts.make_losses(described.loss, at(source, "loss"), kind)  # rejects unknown names early
    names = [] if isinstance(described.loss, LossSpec) else list(described.loss)
    return run_parts.make_trainer(
        source,
        kind,
        model_init=_ModelInit(raw, source),
        loss={name: _LossInit(raw, source, name) for name in names} or _LossInit(raw, source),
        **vars(run_parts.make_parts(described)),
    )


@dataclass(frozen=True)
class _Part:
    """Makes a part of a run file's run with the values of a trial.

    Args:
        raw: The run file.
        source: Its name, for errors.
    """

    raw: Mapping[str, Any]
    source: str

    def _described(self, trial: Params | None, place: str) -> RunFile:
        given = trial or {}
        names = [name for name in given if name.startswith(place)]  # a value that is read counts as used
        return parse_run(run_with(self.raw, {name: given[name] for name in names}), self.source)


class _ModelInit(_Part):
    def __call__(self, trial: Params | None) -> Any:
        from ray_st.cli import run_parts

        model = self._described(trial, _MODEL).model
        assert model is not None
        return run_parts.open_model(model, at(self.source, "model"))


@dataclass(frozen=True)
class _LossInit(_Part):
    """Makes the loss, or the one of a single table."""

    table: str | None = None

    def __call__(self, model: nn.Module, trial: Params | None = None) -> Any:
        from ray_st.cli import run_parts

        run = self._described(trial, _LOSS)
        spec, where, kind = run.loss, at(self.source, "loss"), kind_of(run)
        if isinstance(spec, LossSpec):
            return run_parts.make_loss(spec, where, kind)(model)
        assert self.table is not None
        return run_parts.make_loss(spec[self.table], at(where, self.table), kind)(model)


class _DataInit(_Part):
    def __call__(self, trial: Params | None) -> Any:
        from ray_st.cli import run_tables

        data = self._described(trial, _TRAIN).data
        assert data is not None
        return run_tables.open_tables(data.train, at(at(self.source, "data"), "train"))


def run_with(raw: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A run file with the values of a trial; another loss does not inherit the options of the file's.

    Args:
        raw: The run file's plain values.
        values: The trial's parameters: arguments by name, others by path.

    Raises:
        RunFileError: If a path leads nowhere.
    """
    run = dict(raw)
    for name, value in values.items():
        place = name if name.startswith(_PREFIXES) else f"{_ARGS}{name}"
        holder, _, last = place.rpartition(".")
        if name.startswith(_LOSS) and last == "name" and _at(run, place) != value:
            run = with_value(run, holder, {"name": value})
        run = with_value(run, place, value)
    return run


def _at(raw: object, key: str) -> Any:
    for part in key.split("."):
        raw = raw.get(part) if isinstance(raw, Mapping) else None
    return raw


def write_best(path: Path, raw: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Writes a run file with the values of a trial and without the search.

    Args:
        path: The file.
        raw: The run file that was searched, without its search, as plain values.
        values: The trial's parameters: arguments by name, others by path.
    """
    text = yaml.safe_dump(run_with(raw, values), sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")

"""Search hyperparameters as the `search` section of a run file says; the best run becomes a run file of its own."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ray_st.cli.checks import RunFileError, at, check_keys, check_mapping, check_types
from ray_st.cli.runfile import LossSpec, ModelSpec, RunFile, _load, _override, read_run
from ray_st.util.names import did_you_mean

BEST = "best.yaml"
_ARGS, _MODEL, _LOSS = "args.", "model.", "loss."
_OWN = ("space", "objective", "direction", "trials", "backend")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "file", metavar="RUN.yaml", help="a run file with a `search` section; see docs/search.md"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as search.trials=50")
    parser.add_argument("--check", action="store_true", help="check the search and stop before Ray starts")


def run(options: argparse.Namespace) -> None:
    """Search, and write the best run into the search's folder as ``best.yaml``.

    Raises:
        RunFileError: If the search cannot work as described.
    """
    raw = check_mapping(_load(options.file), options.file)
    for override in options.overrides:
        raw = _override(raw, override)
    where = at(options.file, "search")
    search = _search_section(raw.get("search"), where)
    described = read_run(options.file, [*options.overrides, "search=null"])
    trainer = _trainer(described)
    given = {name: value for name, value in search.items() if name not in _OWN}
    given.setdefault("name", Path(options.file).stem)
    if options.check:
        _space(search["space"], described, where)
        print(f"{options.file}: nothing speaks against this search")
        return
    found = trainer.hyperparameter_search(
        _space(search["space"], described, where),
        search["objective"],
        search.get("trials", 20),
        search["direction"],
        search.get("backend"),
        **given,
    )
    folder = Path(str(trainer.args.output_dir)) / given["name"]
    for place, best in enumerate(found if isinstance(found, list) else [found]):
        path = folder / (BEST if place == 0 else f"best-{place}.yaml")
        write_best(path, raw, best.hyperparameters)
        print(f"trial {best.run_id}: {best.objective}; retrain it with: ray-st train {path}")


def _search_section(value: Any, where: str) -> dict[str, Any]:
    from ray_st.tune.options import SearchOptions

    if value is None:
        raise RunFileError(f"{where}: missing; it says what to search")
    search = check_mapping(value, where)
    plain = [field.name for field in dataclasses.fields(SearchOptions) if field.name != "sampler"]
    check_keys(search, [*_OWN, *plain], where)
    for name in ("space", "objective", "direction"):
        if name not in search:
            raise RunFileError(f"{at(where, name)}: missing")
    check_types(search, {"trials": int, "name": str, "seed": int, "rungs": int, "backend": str}, where)
    check_mapping(search["space"], at(where, "space"))
    return search


def _space(spec: Mapping[str, Any], described: RunFile, where: str) -> Any:
    """The space with the names that the trainer knows: arguments by their own, the rest by their path."""
    from ray_st.tune.plain import plain_space

    for name in spec:
        if not name.startswith((_ARGS, _MODEL, _LOSS)):
            known = [f"args.{name}", "args.learning_rate", "model.max_seq_length", "loss.name"]
            raise RunFileError(
                f"{at(where, 'space')}.{name}: a parameter is args.…, model.… or loss.…; {did_you_mean(name, known)}"
            )
        if name.startswith(_LOSS) and not isinstance(described.loss, LossSpec):
            raise RunFileError(f"{at(where, 'space')}.{name}: this run has a loss for each table, not one")
    drawn = plain_space(spec, at(where, "space"))

    def space(trial: Any) -> dict[str, Any]:
        return {name.removeprefix(_ARGS): value for name, value in (drawn(trial) or {}).items()}

    return space


def _trainer(described: RunFile) -> Any:
    from ray_st.cli import parts
    from ray_st.cli.train import _one, _ray_configs
    from ray_st.trainer import SentenceTransformerTrainer

    if described.model is None or described.data is None:
        lacking = "model" if described.model is None else "data"
        raise RunFileError(f"{at(described.source, lacking)}: missing")
    args = parts.make_args(described)
    scaling_config, run_config = _ray_configs(described)
    where = at(described.source, "data")
    held_out = described.data.eval
    return SentenceTransformerTrainer(
        args=args,
        train_dataset=parts.open_tables(described.data.train, at(where, "train")),
        eval_dataset=parts.open_tables(held_out, at(where, "eval")) if held_out else None,
        evaluator=_one(parts.make_evaluators(described)),
        model_init=_ModelInit(described.model, at(described.source, "model")),
        loss=_loss_init(described),
        scaling_config=scaling_config,
        run_config=run_config,
    )


class _ModelInit:
    """Opens a run file's model, with what a trial changes of it.

    Args:
        spec: What the file says.
        where: What to call its place in errors.
    """

    def __init__(self, spec: ModelSpec, where: str) -> None:
        self._spec, self._where = spec, where

    def __call__(self, trial: Any) -> Any:
        from ray_st.cli import parts
        from ray_st.cli.checks import build

        changes = _changes(trial, _MODEL)
        return parts.open_model(
            build(ModelSpec, {**dataclasses.asdict(self._spec), **changes}, self._where), self._where
        )


def _loss_init(described: RunFile) -> Any:
    from ray_st.cli import parts

    loss, where = described.loss, at(described.source, "loss")
    if not isinstance(loss, LossSpec):
        return {name: parts.make_loss(spec, at(where, name)) for name, spec in loss.items()}
    parts.make_loss(loss, where)  # refuses what is unknown at once

    def make(model: Any, trial: Any = None) -> Any:
        changes = _changes(trial, _LOSS)
        name = changes.pop("name", loss.name)
        return parts.make_loss(LossSpec(name, {**loss.options, **changes}), where)(model)

    return make


def _changes(trial: Any, prefix: str) -> dict[str, Any]:
    names = [name for name in trial or () if name.startswith(prefix)]
    return {name.removeprefix(prefix): trial[name] for name in names}


def write_best(path: Path, raw: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Write a run file with the values of a trial in it and without the search.

    Args:
        path: The file.
        raw: The run file that was searched, as read.
        values: The trial's parameters: arguments by name, others by path.
    """
    best: Any = {key: value for key, value in raw.items() if key != "search"}
    for key in ("model", "loss"):
        if isinstance(best.get(key), str):  # a short form
            best[key] = {"path" if key == "model" else "name": best[key]}
    for name, value in values.items():
        place = name if name.startswith((_MODEL, _LOSS)) else f"{_ARGS}{name}"
        best = _override(best, f"{place}={_as_yaml(value)}")
    path.write_text(yaml.safe_dump(best, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _as_yaml(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("...\n").strip()

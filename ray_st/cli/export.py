"""Export a model to ONNX or OpenVINO, optimize and quantize it, and compare the files with the model.

Files are written into the model's folder, or into OUTPUT with a copy of the model. With --check the command
ends with an error if a file computes worse than --max-loss allows.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_st.cli.model_kinds import MODEL_KINDS
from ray_st.cli.run_checks import RunFileError
from ray_st.cli.runfile import ModelSpec
from ray_st.data.table_spec import TableSpec
from ray_st.models.exported.backend_options import LEVELS, PROCESSORS
from ray_st.util.filesystems import check_kept

if TYPE_CHECKING:
    from datasets import Dataset

_INT8 = "int8"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a model folder, or a name on the Hub")
    parser.add_argument("output", metavar="OUTPUT", nargs="?", help="a folder (default: MODEL)")
    parser.add_argument("--to", choices=("onnx", "openvino"), default="onnx", help="format (default: onnx)")
    parser.add_argument(
        "--type", choices=tuple(MODEL_KINDS), default=ModelSpec.type, help="the kind of model"
    )
    parser.add_argument("--optimize", choices=LEVELS, help="also write a file of this level; only for onnx")
    parser.add_argument(
        "--quantize",
        choices=(*PROCESSORS, _INT8),
        help="also write a file with 8 bits: for a processor (onnx), or int8 (openvino, with --calibrate)",
    )
    parser.add_argument("--calibrate", metavar="FILE", help="texts by which activations' ranges are found")
    parser.add_argument(
        "--check", metavar="FILE", help="pairs of texts, with a number if known, to compare on"
    )
    parser.add_argument(
        "--max-loss",
        type=float,
        default=0.01,
        help="how much of the figure a file may lose, as a share of it (default: 0.01)",
    )
    parser.add_argument("--batch-size", type=int, default=32, help="texts in a batch (default: 32)")


def run(options: argparse.Namespace) -> None:
    """Writes the files, and compares them.

    Raises:
        RunFileError: If an argument is invalid, or a file is worse than allowed.
    """
    from ray_st.cli import run_parts
    from ray_st.cli.export_check import checked, shown

    folder = _folder(options)
    table = _table(options.check, "--check") if options.check else None
    texts = _table(options.calibrate, "--calibrate") if options.calibrate else None
    source = run_parts.open_model(ModelSpec(options.model, options.type), "MODEL")
    if folder != Path(options.model):
        source.save(str(folder))
    names = export_files(options, folder, texts)
    for name in names:
        print(f"written: {folder / options.to / name}", flush=True)
    if table is None:
        return
    found = checked(
        source, {name: _opened(options, folder, name) for name in names}, table, options.batch_size
    )
    print(shown(found))
    worse = [one for one in found[1:] if one.loss(found[0]) > options.max_loss]
    if worse:
        listed = ", ".join(f"{one.name} loses {one.loss(found[0]):.1%}" for one in worse)
        raise RunFileError(
            f"--check: {listed} of {found[0].figure_name}; at most {options.max_loss:.1%} is good"
        )


def export_files(options: argparse.Namespace, folder: Path, texts: Dataset | None) -> list[str]:
    """Writes the files; their names, each made of the one before.

    Args:
        options: The command's arguments.
        folder: The model's folder.
        texts: Texts by which activations' ranges are found.
    """
    from ray_st.models.exported import file_export
    from ray_st.models.exported.backend_files import DEFAULT_NAMES, name_with
    from ray_st.models.exported.calibrated_quantization import CALIBRATED
    from ray_st.models.exported.exported_module import exported_parts

    (part,) = exported_parts(_opened(options, folder, None))
    part.file.write(folder)
    names = [DEFAULT_NAMES[options.to]]
    if options.optimize:
        model = _opened(options, folder, names[-1])
        file_export.export_optimized_onnx_model(model, options.optimize, folder)
        names.append(name_with(options.optimize, options.to))
    if options.quantize:
        model = _opened(options, folder, names[-1])
        if options.to == "onnx":
            suffix = _suffix(options.optimize, options.quantize)
            file_export.export_dynamic_quantized_onnx_model(
                model, options.quantize, folder, file_suffix=suffix
            )
            names.append(name_with(suffix, options.to))
        else:
            assert texts is not None
            file_export.export_static_quantized_openvino_model(
                model, None, folder, texts, column_name=_text_columns(texts, options.type)
            )
            names.append(name_with(CALIBRATED, options.to))
    return names


def _folder(options: argparse.Namespace) -> Path:
    """Where files are written, after checking the arguments."""
    onnx = options.to == "onnx"
    if options.optimize and not onnx:
        raise RunFileError("--optimize: only for --to onnx; OpenVINO optimizes a file when it opens it")
    if options.quantize and onnx == (options.quantize == _INT8):
        known = ", ".join(PROCESSORS) if onnx else _INT8
        raise RunFileError(f"--quantize: expected {known} for --to {options.to}, found {options.quantize}")
    if bool(options.calibrate) != (options.quantize == _INT8):
        raise RunFileError("--calibrate: needed for --quantize int8, and only there")
    if options.batch_size < 1 or options.max_loss < 0:
        raise RunFileError("--batch-size and --max-loss: expected at least 1 and at least 0")
    if options.output is None and not Path(options.model).is_dir():
        raise RunFileError(f"OUTPUT: missing; {options.model} is no folder that files could be written into")
    folder = options.output or options.model
    check_kept(folder, "OUTPUT")
    return Path(folder)


def _opened(options: argparse.Namespace, folder: Path, name: str | None) -> Any:
    """The model with a file; without a name it is exported now."""
    kind = MODEL_KINDS[options.type]
    how = {"export": True} if name is None else {"file_name": name}
    return kind.find(kind.model)(str(folder), backend=options.to, model_kwargs=how, device="cpu")


def _suffix(level: str | None, processor: str) -> str:
    from ray_st.models.exported.weight_quantization import settings_for, suffix_of

    return "_".join([*([level] if level else []), suffix_of(settings_for(processor), processor)])


def _table(path: str, where: str) -> Dataset:
    from ray_st.cli.run_tables import open_table

    table = open_table(TableSpec(path), where)
    if not len(table):
        raise RunFileError(f"{where}: {path} has no rows")
    return table


def _text_columns(table: Dataset, kind: str) -> list[str]:
    from ray_st.cli.export_check import columns_of

    texts, _ = columns_of(table, "--calibrate", 2 if kind == "CrossEncoder" else 1)
    return texts

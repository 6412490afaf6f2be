"""What mkdocs does not do by itself: reference pages from the packages' tables of names, and links in docstrings."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PAGES = {
    "trainer": ("Trainer", ["ray_st.trainer.SentenceTransformerTrainer"]),
    "arguments": (
        "Training arguments",
        [
            "ray_st.training_args.SentenceTransformerTrainingArguments",
            "ray_st.training_args.BatchSamplers",
            "ray_st.training_args.MultiDatasetBatchSamplers",
            "ray_st.training_args.BadRows",
            "ray_st.training_args.EvalOn",
        ],
    ),
    "models": ("Models", ["ray_st.models", "ray_st.model_card", "ray_st.similarity_functions"]),
    "losses": ("Losses", ["ray_st.losses"]),
    "evaluation": ("Evaluators", ["ray_st.evaluation"]),
    "rerankers": (
        "Rerankers",
        [
            "ray_st.models.reranker.cross_encoder.CrossEncoder",
            "ray_st.cross_encoder.reranker_trainer.CrossEncoderTrainer",
            "ray_st.cross_encoder.reranker_args.CrossEncoderTrainingArguments",
            "ray_st.models.card.model_card_data.CrossEncoderModelCardData",
            "ray_st.losses.scores",
            "ray_st.evaluation.reranker",
        ],
    ),
    "sampler": ("Samplers", ["ray_st.sampler"]),
    "search": ("Hyperparameter search", ["ray_st.tune"]),
    "data": ("Data", ["ray_st.data.sources", "ray_st.datasets", "ray_st.readers"]),
    "util": ("Functions", ["ray_st.util", "ray_st.quantization"]),
    "clusters": (
        "On clusters",
        [
            "ray_st.runtime.encode.encode_pool",
            "ray_st.runtime.encode.corpus.encode_corpus",
            "ray_st.runtime.encode.score_corpus.score_corpus",
            "ray_st.runtime.encode.cluster_mining.ClusterSearch",
            "ray_st.runtime.encode.rank_evaluators.evaluate_on_workers",
        ],
    ),
}
"""For each page of the reference its title, and the packages, modules and names on it."""

_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`(?:[^`<]*<)?(~?)([\w.]+)>?`")
_OUTSIDE = re.compile(r"\[([^\]]+)\]\((\.\./[^)#\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of the reference.

    Raises:
        PluginError: If ray_st cannot be imported: the pages would be empty.
    """
    try:
        importlib.import_module("ray_st")
    except ImportError as error:
        raise PluginError(
            f"ray_st cannot be imported ({error}), and its reference is read from it; use `make docs`"
        ) from error
    for page, (title, parts) in PAGES.items():
        blocks = [f"::: {name}" for part in parts for name in _names(part)]
        text = "\n\n".join([f"# {title}", *blocks])
        files.append(File.generated(config, f"reference/{page}.md", content=text + "\n"))
    return files


def on_page_markdown(markdown: str, page: Page, **kwargs: Any) -> str:
    """Shows where a link leads that leaves the documentation for another file of the repository."""

    def shown(link: re.Match[str]) -> str:
        text, path = link.groups()
        target = Path("docs", page.file.src_uri).parent.joinpath(path).resolve()
        if target.is_relative_to(Path("docs").resolve()):
            return link[0]
        if not target.exists():
            raise PluginError(f"{page.file.src_uri}: there is no {path}")
        name = path.removeprefix("../")
        return f"`{name}`" if text.strip("`") in name else f"{text} (`{name}`)"

    return _OUTSIDE.sub(shown, markdown)


def _names(part: str) -> list[str]:
    """The public names of a package or module with where they are defined; a class or function is itself."""
    try:
        found = importlib.import_module(part)
    except ModuleNotFoundError:
        return [part]
    table = getattr(found, "_NAMES", None)
    if table is None:
        return [f"{part}.{name}" for name in getattr(found, "__all__", [])] or [part]
    own = {
        name: module for name, module in table.items() if module.startswith(part)
    }  # others have their page
    return sorted(
        module if module.endswith(f".{name}") else f"{module}.{name}" for name, module in own.items()
    )


class Roles(griffe.Extension):
    """Makes links of the roles in docstrings, where the reference has their target, and code where it has not."""

    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Leaves out bases that are no part of the reference."""
        public = {
            name.rpartition(".")[2] for _, parts in PAGES.values() for part in parts for name in _names(part)
        }
        cls.bases = [base for base in cls.bases if str(base).rpartition(".")[2] in public]

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = _ROLE.sub(_link, obj.docstring.value).replace("``", "`")


def _link(found: re.Match[str]) -> str:
    short, target = found.groups()
    shown = target.rpartition(".")[2] if short else target
    return f'<autoref identifier="{target}" optional>`{shown}`</autoref>'

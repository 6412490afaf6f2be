"""The model card: README.md with a YAML header, for the Hub and for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ray_st.models.card.kinds import CardText, arguments, text_of
from ray_st.models.card.model_card_data import UNNAMED, ModelCardData, Scores
from ray_st.models.card.run_facts import duration
from ray_st.models.card.tables import LOSS, facts, figure, folded, log_rows, seconds_spent, table
from ray_st.util.citations import cited

if TYPE_CHECKING:
    from ray_st.models.reranker.cross_encoder import CrossEncoder
    from ray_st.models.sentence_transformer import SentenceTransformer

_MANY = 3
"""Number of datasets that are shown expanded."""


def write_card(
    folder: Path, model: SentenceTransformer | CrossEncoder, data: ModelCardData, readme: str | None
) -> None:
    """Writes README.md: the card that the model came with, or a new one once it is trained or has none.

    Args:
        folder: The model's folder.
        model: The model.
        data: Facts about it.
        readme: The card that it came with, or None.
    """
    text = _with_backend(readme, model, data) if readme and not data.trained else render_card(model, data)
    (folder / "README.md").write_text(text, encoding="utf-8")


def _with_backend(readme: str, model: SentenceTransformer | CrossEncoder, data: ModelCardData) -> str:
    """A card that came with a model, with how to open its exported file."""
    opening = f"{type(model).__name__}({arguments(model, data)})"
    if model.backend == "torch" or opening in readme:
        return readme
    return f"{readme.rstrip()}\n\n## Exported file\n\n```python\nmodel = {opening}\n```\n"


def render_card(model: SentenceTransformer | CrossEncoder, data: ModelCardData) -> str:
    """The text of a card.

    Args:
        model: The model, for its structure and what :func:`text_of` tells of it.
        data: Facts about it.
    """
    text = text_of(model, data)
    parts = [
        f"---\n{header(data, text)}---",
        f"# {_title(data, text.kind)}",
        _summary(text, data),
        _description(text, data),
        f"## Architecture\n\n```\n{model}\n```",
        _usage(text),
        *_evaluation(data.scores),
        *_training(data),
        _citations(data),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def header(data: ModelCardData, text: CardText) -> str:
    """The YAML header of a card, as the Hub reads it."""
    ids = [entry["id"] for entry in data.train_datasets if entry.get("id")]
    values = {
        "language": data.language,
        "license": data.license,
        "library_name": "sentence-transformers",
        "pipeline_tag": text.pipeline_tag,
        "tags": data.tags,
        "base_model": data.base_model,
        "datasets": ids,
        "widget": data.widget if text.has_widget else None,
        "co2_eq_emissions": None if data.emissions is None else data.emissions.header(),
        "model-index": [_index(data, text.kind)] if data.scores else None,
    }
    known = {name: value for name, value in values.items() if value}
    return yaml.safe_dump(known, sort_keys=False, allow_unicode=True, width=120)


def _index(data: ModelCardData, kind: str) -> dict[str, Any]:
    results = [
        {
            "task": {"type": scores.description.lower().replace(" ", "-"), "name": scores.description},
            "dataset": {"name": scores.dataset or "Unknown", "type": "unknown"},
            "metrics": [
                {"type": name, "value": value, "name": name.replace("_", " ").title()}
                for name, value in scores.metrics.items()
            ],
        }
        for scores in data.scores
    ]
    return {"name": _title(data, kind), "results": results}


def _title(data: ModelCardData, kind: str) -> str:
    based = f"{kind} based on {data.base_model}" if data.base_model else ""
    return data.model_name or based or data.model_id or kind


def _summary(text: CardText, data: ModelCardData) -> str:
    link = f"[{data.base_model}](https://huggingface.co/{data.base_model})"
    base = f" It was fine-tuned from {link}." if data.base_model and data.trained else ""
    names = [_linked(entry) for entry in data.train_datasets if entry["name"] != UNNAMED]
    shown = ", ".join(names) if len(names) <= _MANY else f"{len(names)} data sets"
    trained = f" It was trained on {shown}." if names else ""
    return f"{text.purpose}{base}{trained}"


def _description(text: CardText, data: ModelCardData) -> str:
    languages = [data.language] if isinstance(data.language, str) else data.language or []
    revision = f" (revision {data.base_model_revision})" if data.base_model_revision else ""
    known = {
        "Base model": f"{data.base_model}{revision}" if data.base_model else None,
        **text.facts,
        "Language": ", ".join(languages),
        "Licence": data.license,
    }
    return "## Model\n\n" + facts(known)


def _linked(entry: dict[str, Any]) -> str:
    known = entry.get("id")
    return f"[{entry['name']}](https://huggingface.co/datasets/{known})" if known else str(entry["name"])


def _usage(text: CardText) -> str:
    return f"""## Usage

```bash
pip install ray-st
```

```python
{text.usage}
```"""


def _evaluation(scores: Sequence[Scores]) -> Iterator[str]:
    if scores:
        yield "## Evaluation"
    for found in scores:
        data = f" on `{found.dataset}`" if found.dataset else ""
        when = f" (step {found.steps})" if found.steps >= 0 else ""
        rows = [
            [f"**{name}**" if name == found.primary else name, found.shown.get(name, f"{value:.4f}")]
            for name, value in found.metrics.items()
        ]
        yield (
            f"### {found.description}{data}{when}\n\nEvaluated with `{found.name}`.\n\n"
            + table(["Metric", "Value"], rows)
        )


def _training(data: ModelCardData) -> Iterator[str]:
    sections = [
        *_datasets("Training", data.train_datasets),
        *_datasets("Evaluation", data.eval_datasets),
        *_hyperparameters(data),
        *_log(data),
        *_circumstances(data),
    ]
    if data.losses or sections:
        yield "## Training"
    if data.losses:
        yield "Loss: " + ", ".join(f"`{name}`" for name in data.losses)
    yield from sections


def _datasets(kind: str, entries: Sequence[dict[str, Any]]) -> Iterator[str]:
    described = [entry for entry in entries if len(entry) > 1]
    for entry in described:
        text = _dataset(kind, entry)
        yield text if len(described) <= _MANY else folded(f"{kind} data: {entry['name']}", text)


def _dataset(kind: str, entry: dict[str, Any]) -> str:
    revision = f" (revision {entry['revision']})" if entry.get("revision") else ""
    known = {
        "Hub": f"{_linked({**entry, 'name': entry['id']})}{revision}" if entry.get("id") else None,
        "Rows": f"{entry['size']:,}" if isinstance(entry.get("size"), int) else None,
        "Columns": ", ".join(f"`{name}`" for name in entry.get("columns", [])),
        "Loss": f"`{entry['loss']}`" if entry.get("loss") else None,
    }
    parts = [f"### {kind} data: {entry['name']}", facts(known)]
    if entry.get("loss_settings"):
        settings = json.dumps(entry["loss_settings"], indent=4, ensure_ascii=False)
        parts.append(f"Settings of the loss:\n\n```json\n{settings}\n```")
    if entry.get("statistics"):
        rows = [list(row.values()) for row in entry["statistics"]]
        parts.append(
            f"Its columns, from the first {entry['counted']} rows:\n\n"
            + table(list(entry["statistics"][0]), rows)
        )
    if entry.get("samples") and entry.get("columns"):
        parts.append("Its first rows:\n\n" + table(entry["columns"], entry["samples"]))
    return "\n\n".join(part for part in parts if part)


def _hyperparameters(data: ModelCardData) -> Iterator[str]:
    if data.hyperparameters:
        yield "### Hyperparameters\n\nThose that differ from their defaults:\n\n" + _settings(
            data.hyperparameters
        )
    if data.all_hyperparameters:
        yield folded("All hyperparameters", _settings(data.all_hyperparameters))


def _settings(values: dict[str, Any]) -> str:
    return table(["Name", "Value"], [[f"`{name}`", f"`{value}`"] for name, value in values.items()])


def _log(data: ModelCardData) -> Iterator[str]:
    rows = log_rows(data.logs, [scores.primary for scores in data.scores if scores.primary])
    if not rows:
        return
    names = dict.fromkeys(["Epoch", "Step", LOSS, *(name for row in rows for name in row)])
    shown = [name for name in names if any(name in row for row in rows)]
    cells = [[_logged(row, name, data.best_step) for name in shown] for row in rows]
    best = any(row["Step"] == data.best_step for row in rows)
    note = "\n\nThe bold row is the step whose weights were kept." if best else ""
    yield "### Log\n\n" + table(shown, cells) + note


def _logged(row: dict[str, Any], name: str, best_step: int | None) -> str:
    text = figure(row.get(name))
    return f"**{text}**" if row["Step"] == best_step else text


def _circumstances(data: ModelCardData) -> Iterator[str]:
    if data.cluster is not None:
        yield "### Cluster\n\n" + facts(data.cluster.facts())
    seconds = seconds_spent(data.logs)
    if seconds:
        yield "### Time\n\n" + facts({name: duration(value) for name, value in seconds.items() if value})
    if data.emissions is not None:
        source = "Measured with [CodeCarbon](https://github.com/mlco2/codecarbon)."
        yield f"### Emissions\n\n{source}\n\n" + facts(data.emissions.facts())
    if data.versions:
        yield "### Versions\n\n" + facts(data.versions)


def _citations(data: ModelCardData) -> str:
    known = (cited("reimers-2019-sentence-bert"), *data.citations.values())
    texts = dict.fromkeys(text.strip() for text in known)
    return "## Citation\n\n" + "\n\n".join(f"```bibtex\n{text}\n```" for text in texts)

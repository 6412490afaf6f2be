"""The model card: README.md with a YAML header, for the Hub and for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from ray_st.models.card_data import Scores, SentenceTransformerModelCardData

_EXAMPLES = ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.")
_UNNAMED = "path/to/this/model"
_SBERT = """@inproceedings{reimers-2019-sentence-bert,
    title = "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks",
    author = "Reimers, Nils and Gurevych, Iryna",
    booktitle = "Proceedings of the 2019 Conference on Empirical Methods in Natural Language Processing",
    year = "2019",
    url = "https://arxiv.org/abs/1908.10084",
}"""


def write_card(folder: Path, model: Any, data: SentenceTransformerModelCardData, readme: str | None) -> None:
    """Writes README.md: the card that the model came with, or a new one once it is trained or has none.

    Args:
        folder: The model's folder.
        model: The model.
        data: What is known about it.
        readme: The card that it came with, or None.
    """
    text = readme if readme and not data.trained else render_card(model, data)
    (folder / "README.md").write_text(text, encoding="utf-8")


def render_card(model: Any, data: SentenceTransformerModelCardData) -> str:
    """The text of a card.

    Args:
        model: The model; asked for its structure, dimension, longest sequence and similarity.
        data: What is known about it.
    """
    parts = [
        f"---\n{header(data)}---",
        f"# {_title(data)}",
        _summary(model, data),
        _description(model, data),
        f"## Architecture\n\n```\n{model}\n```",
        _usage(data),
        *_evaluation(data.scores),
        *_training(data),
        _citations(data),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def header(data: SentenceTransformerModelCardData) -> str:
    """The YAML header of a card, as the Hub reads it."""
    ids = [entry["id"] for entry in data.train_datasets if entry.get("id")]
    values = {
        "language": data.language,
        "license": data.license,
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": data.tags,
        "base_model": data.base_model,
        "datasets": ids,
        "widget": data.widget,
        "model-index": [_index(data)] if data.scores else None,
    }
    known = {name: value for name, value in values.items() if value}
    return yaml.safe_dump(known, sort_keys=False, allow_unicode=True, width=120)


def _index(data: SentenceTransformerModelCardData) -> dict[str, Any]:
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
    return {"name": _title(data), "results": results}


def _title(data: SentenceTransformerModelCardData) -> str:
    return (
        data.model_name
        or (f"SentenceTransformer based on {data.base_model}" if data.base_model else "")
        or (data.model_id or "SentenceTransformer")
    )


def _summary(model: Any, data: SentenceTransformerModelCardData) -> str:
    base = f" It was fine-tuned from {data.base_model}." if data.base_model and data.trained else ""
    names = ", ".join(entry["name"] for entry in data.train_datasets)
    trained = f" It was trained on {names}." if names else ""
    dimension = model.get_embedding_dimension()
    return (
        f"This is a sentence-transformers model: it maps texts to vectors of {dimension} dimensions, for "
        f"{data.task_name}.{base}{trained}"
    )


def _description(model: Any, data: SentenceTransformerModelCardData) -> str:
    languages = [data.language] if isinstance(data.language, str) else data.language or []
    revision = f" (revision {data.base_model_revision})" if data.base_model_revision else ""
    facts = {
        "Base model": f"{data.base_model}{revision}" if data.base_model else None,
        "Longest sequence": f"{model.max_seq_length} tokens" if model.max_seq_length else None,
        "Dimensions": model.get_embedding_dimension(),
        "Similarity": model.similarity_fn_name,
        "Prompts": ", ".join(f"`{name}`: {text!r}" for name, text in model.prompts.items() if text),
        "Language": ", ".join(languages),
        "Licence": data.license,
    }
    return "## Model\n\n" + "\n".join(f"- **{name}:** {value}" for name, value in facts.items() if value)


def _usage(data: SentenceTransformerModelCardData) -> str:
    example = data.widget[0] if data.widget else {}
    texts = [example.get("source_sentence", _EXAMPLES[0]), *example.get("sentences", _EXAMPLES[1:])]
    listed = "\n".join(f"    {text!r}," for text in texts)
    return f"""## Usage

```bash
pip install ray-st
```

```python
from ray_st import SentenceTransformer  # or: from sentence_transformers import SentenceTransformer

model = SentenceTransformer({data.model_id or _UNNAMED!r})
sentences = [
{listed}
]
embeddings = model.encode(sentences)
print(model.similarity(embeddings, embeddings))
```"""


def _evaluation(scores: Sequence[Scores]) -> Iterator[str]:
    if scores:
        yield "## Evaluation"
    for found in scores:
        data = f" on `{found.dataset}`" if found.dataset else ""
        when = f" (step {found.steps})" if found.steps >= 0 else ""
        rows = [
            [f"**{name}**" if name == found.primary else name, f"{value:.4f}"]
            for name, value in found.metrics.items()
        ]
        yield f"### {found.description}{data}{when}\n\n" + table(["Metric", "Value"], rows)


def _training(data: SentenceTransformerModelCardData) -> Iterator[str]:
    facts = [data.losses, data.hyperparameters, data.logs, data.versions]
    if not any(facts) and not any(len(entry) > 1 for entry in data.train_datasets):
        return
    yield "## Training"
    if data.losses:
        yield "Loss: " + ", ".join(f"`{name}`" for name in data.losses)
    for kind, entries in (("Training", data.train_datasets), ("Evaluation", data.eval_datasets)):
        yield from (_dataset(kind, entry) for entry in entries)
    if data.hyperparameters:
        rows = [[f"`{name}`", f"`{value}`"] for name, value in data.hyperparameters.items()]
        yield "### Hyperparameters\n\n" + table(["Name", "Value"], rows)
    if data.logs:
        names = list(dict.fromkeys(name for row in data.logs for name in row))
        yield "### Log\n\n" + table(names, [[_figure(row.get(name)) for name in names] for row in data.logs])
    if data.versions:
        yield "### Versions\n\n" + "\n".join(
            f"- {name}: {version}" for name, version in data.versions.items()
        )


def _dataset(kind: str, entry: dict[str, Any]) -> str:
    facts = {
        "Hub": entry.get("id"),
        "Rows": f"{entry['size']:,}" if isinstance(entry.get("size"), int) else None,
        "Columns": ", ".join(f"`{name}`" for name in entry.get("columns", [])),
        "Loss": f"`{entry['loss']}`" if entry.get("loss") else None,
    }
    lines = [f"### {kind} data: {entry['name']}", ""] + [
        f"- {name}: {value}" for name, value in facts.items() if value
    ]
    if entry.get("samples") and entry.get("columns"):
        lines += ["", table(entry["columns"], entry["samples"])]
    return "\n".join(lines)


def _citations(data: SentenceTransformerModelCardData) -> str:
    texts = [_SBERT, *dict.fromkeys(text.strip() for text in data.citations.values())]
    return "## Citation\n\n" + "\n\n".join(f"```bibtex\n{text}\n```" for text in texts)


def table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; line breaks and bars in its cells are replaced."""
    lines = [list(names), ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _figure(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)

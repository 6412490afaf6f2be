"""What the cards of embedders and of rerankers say differently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray_st.models.card.model_card_data import CrossEncoderModelCardData, ModelCardData
from ray_st.models.exported.backend_files import DEFAULT_NAMES
from ray_st.models.exported.exported_module import exported_parts

if TYPE_CHECKING:
    from ray_st.models.reranker.cross_encoder import CrossEncoder
    from ray_st.models.sentence_transformer import SentenceTransformer

_EXAMPLES = ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.")
_PAIRS = (
    "How many calories in an egg",
    "There are on average between 55 and 80 calories in an egg depending on its size.",
    "Most of the calories in an egg come from the yellow yolk in the center.",
)
_UNNAMED = "path/to/this/model"
_IMPORT = "from ray_st import {0}  # or: from sentence_transformers import {0}"


@dataclass(frozen=True)
class CardText:
    """The parts of a card that depend on the kind of model.

    Attributes:
        kind: The model's class.
        pipeline_tag: The Hub's name of the task.
        purpose: A sentence about what it does.
        facts: Facts about it, by name.
        usage: Python code that uses it.
        has_widget: Whether the Hub has a widget for it.
    """

    kind: str
    pipeline_tag: str
    purpose: str
    facts: Mapping[str, Any]
    usage: str
    has_widget: bool = True


def text_of(model: SentenceTransformer | CrossEncoder, data: ModelCardData) -> CardText:
    """The parts of a model's card that depend on its kind, which the kind of its facts tells.

    Args:
        model: The model.
        data: Facts about it.
    """
    known: Any = model
    return _reranker(known, data) if isinstance(data, CrossEncoderModelCardData) else _embedder(known, data)


def _embedder(model: SentenceTransformer, data: ModelCardData) -> CardText:
    dimension = model.get_embedding_dimension()
    purpose = (
        f"This is a sentence-transformers model: it maps texts to vectors of {dimension} dimensions, for "
        f"{data.task_name}."
    )
    facts = {
        "Longest sequence": _tokens(model.max_seq_length),
        "Dimensions": dimension,
        "Similarity": model.similarity_fn_name,
        "Prompts": _prompts(model.prompts),
    }
    listed = "\n".join(f"    {text!r}," for text in _example(data, _EXAMPLES))
    usage = f"""{_IMPORT.format("SentenceTransformer")}

model = SentenceTransformer({arguments(model, data)})
sentences = [
{listed}
]
embeddings = model.encode(sentences)
print(model.similarity(embeddings, embeddings))"""
    return CardText("SentenceTransformer", "sentence-similarity", purpose, facts, usage)


def _reranker(model: CrossEncoder, data: ModelCardData) -> CardText:
    ranks = model.num_labels == 1
    task = data.task_name or ("reranking and semantic search" if ranks else "classification of text pairs")
    numbers = "a score" if ranks else f"{model.num_labels} scores"
    facts = {
        "Longest pair": _tokens(model.max_length),
        "Labels": model.num_labels,
        "Activation": model.activation_fn,
        "Prompts": _prompts(model.prompts),
    }
    query, *documents = _example(data, _PAIRS)
    listed = "\n".join(f"    {text!r}," for text in documents)
    ranking = "\nprint(model.rank(query, documents))" if ranks else ""
    usage = f"""{_IMPORT.format("CrossEncoder")}

model = CrossEncoder({arguments(model, data)})
query = {query!r}
documents = [
{listed}
]
print(model.predict([(query, document) for document in documents])){ranking}"""
    return CardText(
        "CrossEncoder",
        "text-ranking" if ranks else "text-classification",
        f"This is a sentence-transformers cross encoder: it reads two texts together and computes {numbers} "
        f"for the pair, for {task}.",
        facts,
        usage,
        has_widget=False,
    )


def arguments(model: SentenceTransformer | CrossEncoder, data: ModelCardData) -> str:
    """The arguments with which a saved model is opened, as Python code.

    Args:
        model: The model.
        data: Facts about it.
    """
    listed = [repr(data.model_id or _UNNAMED)]
    for part in exported_parts(model)[:1]:
        listed.append(f"backend={part.backend!r}")
        if part.file.name != DEFAULT_NAMES[part.backend]:
            listed.append(f"model_kwargs={{'file_name': {f'{part.backend}/{part.file.name}'!r}}}")
    return ", ".join(listed)


def _example(data: ModelCardData, default: tuple[str, ...]) -> list[str]:
    """A text and others to compare it to: the first example of the training data, or fixed ones."""
    known = data.widget[0] if data.widget else {}
    return [known.get("source_sentence", default[0]), *known.get("sentences", default[1:])]


def _tokens(limit: int | None) -> str | None:
    return f"{limit} tokens" if limit else None


def _prompts(prompts: Mapping[str, str]) -> str:
    return ", ".join(f"`{name}`: {text!r}" for name, text in prompts.items() if text)

"""Models with a Router: each text column through its row, in training, evaluation and prediction."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from datasets import Dataset

from processes import run_ranks
from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.evaluation import InformationRetrievalEvaluator
from ray_st.losses import CachedMultipleNegativesRankingLoss, GISTEmbedLoss, MultipleNegativesRankingLoss
from ray_st.models import Normalize, Pooling, Router, StaticEmbedding, Transformer
from ray_st.training.checkpoint.resume import differences
from ray_st.training.data.local_source import build_here, local_context
from ray_st.world import World

ROWS = Dataset.from_dict(
    {"q": [f"one {i}" for i in range(16)], "a": [f"two {i * i} and more" for i in range(16)]}
)
MAPPING = {"q": "query", "a": "document"}
TEXTS = ["weather 3", "a man eats pasta"]


def routed(encoder: Path, static: bool = False) -> SentenceTransformer:
    """A model with an encoder for documents and another one, or static vectors, for queries."""
    torch.manual_seed(0)
    document = [Transformer(encoder), Pooling(32)]
    tokenizer = document[0].tokenizer.backend_tokenizer  # type: ignore[union-attr]
    query = [StaticEmbedding(tokenizer, embedding_dim=32)] if static else [Transformer(encoder), Pooling(32)]
    modules = [Router.for_query_document(query, document), Normalize()]
    return SentenceTransformer(modules=modules, device="cpu")


@pytest.fixture
def make_routed(make: Any, tiny_encoder: Path) -> Any:
    def make_routed(static: bool = False, **options: Any) -> Any:
        arguments = {"router_mapping": MAPPING, **options.pop("arguments", {})}
        options.setdefault("train_dataset", ROWS)
        return make(model=routed(tiny_encoder, static), arguments=arguments, **options)

    return make_routed


def moved(before: dict[str, torch.Tensor], model: Any, row: str) -> list[bool]:
    names = [name for name in before if f"sub_modules.{row}." in name]
    return [not torch.equal(before[name], model.state_dict()[name]) for name in names]


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("loss", [MultipleNegativesRankingLoss, CachedMultipleNegativesRankingLoss])
def test_both_rows_are_trained(make_routed: Any, sent: Any, static: bool, loss: Any) -> None:
    trainer = make_routed(static, loss=loss)
    before = copy.deepcopy(trainer.model.state_dict())
    loop = sent(trainer)
    loop.train()
    assert all(moved(before, loop.model, "query"))
    assert all(moved(before, loop.model, "document"))


def test_texts_are_encoded_ahead_by_their_rows_encoder(make_routed: Any) -> None:
    part = make_routed(static=True).data.train_specs(1)["train"]
    encoding = part.datasets[""].encoding
    row = int(build_here(part).source.piece(0, 0).plan.rows[0])
    window = build_here(part).source.windows[0]
    for column in MAPPING:
        assert window.has_tokens(column, np.array([0]))
        expected = encoding.encoder_of(column)([ROWS[row][column]])[0]
        np.testing.assert_array_equal(window.ids(column, np.array([row]))[0], expected)


def test_a_batch_says_the_task_of_each_column(make_routed: Any) -> None:
    inputs = next(iter(make_routed(static=True).get_train_dataloader()))
    assert [inputs[f"{column}_task"] for column in MAPPING] == ["query", "document"]
    assert "a_token_type_ids" in inputs
    assert "q_token_type_ids" not in inputs  # static vectors have none


def test_a_collator_of_the_users_need_not_know(make_routed: Any, sent: Any) -> None:
    tokenizer = make_routed().model.tokenizer

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        made = {
            name: tokenizer([row[name] for row in rows], return_tensors="pt", padding=True) for name in "qa"
        }
        return {f"{name}_{key}": value for name, part in made.items() for key, value in part.items()}

    trainer = make_routed(data_collator=collate)
    before = copy.deepcopy(trainer.model.state_dict())
    loop = sent(trainer)
    loop.train()
    assert all(moved(before, loop.model, "query"))


def test_evaluation_and_predictions_take_the_same_rows(make_routed: Any, on_cluster: None) -> None:
    trainer = make_routed(eval_dataset=ROWS)
    model = trainer.model
    found = trainer.predict(ROWS)
    np.testing.assert_allclose(found.predictions[0], model.encode_query(list(ROWS["q"])), atol=1e-5)
    np.testing.assert_allclose(found.predictions[1], model.encode_document(list(ROWS["a"])), atol=1e-5)
    columns = [
        torch.from_numpy(found.predictions[place][start : start + 5]) for start in (0,) for place in (0, 1)
    ]
    expected = MultipleNegativesRankingLoss(model).compute_loss_from_embeddings(columns)
    assert trainer.evaluate(ROWS.select(range(5)))["eval_loss"] == pytest.approx(float(expected), abs=1e-5)


def test_prompts_are_counted_with_the_rows_own_tokenizer(make_routed: Any) -> None:
    trainer = make_routed(static=True, arguments={"prompts": {"q": "query ", "a": "document "}})
    dataset = trainer.data.train_specs(1)["train"].datasets[""]
    model = trainer.model
    expected = {"q": model.route_encoder("query"), "a": model.route_encoder("document")}
    assert dataset.prompt_lengths == {
        name: encoder.prompt_length({"q": "query ", "a": "document "}[name])
        for name, encoder in expected.items()
    }


def test_a_prompt_for_a_row_with_a_chat_template_is_refused(make_routed: Any, tiny_encoder: Path) -> None:
    trainer = make_routed(arguments={"prompts": "query: "})
    template = "{% for part in messages %}{{ part['content'] }}{% endfor %}"
    options = {
        "modality_config": {"message": {"format": "flat"}},
        "processor_kwargs": {"chat_template": template},
    }
    trainer.model.first.sub_modules["query"][0] = Transformer(tiny_encoder, **options)
    with pytest.raises(ValueError, match="texts into its chat template"):
        trainer.data.train_specs(1)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"question": "query", "a": "document"}, r"names \['question'\], which are no text columns"),
        ({"q": "qery", "a": "document"}, "column 'q' in args.router_mapping: There is no row of modules for 'qery'"),
        ({"web": MAPPING}, "single dataset, which has no name"),
    ],
    ids=str,
)  # fmt: skip
def test_what_the_driver_refuses(make_routed: Any, mapping: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_routed(arguments={"router_mapping": mapping}).data.train_specs(1)


def test_without_a_mapping_no_trainer_is_made(make: Any, tiny_encoder: Path) -> None:
    with pytest.raises(ValueError, match=r"Set router_mapping in the training arguments, such as"):
        make(model=routed(tiny_encoder))


def test_a_mapping_is_a_task_a_column() -> None:
    read = SentenceTransformerTrainingArguments("out", router_mapping='{"q": "query"}', report_to="none")
    assert read.router_mapping == {"q": "query"}
    for wrong in ({"q": 3}, {"q": "query", "web": {"q": "query"}}, "query"):
        with pytest.raises(ValueError, match="router_mapping"):
            SentenceTransformerTrainingArguments("out", router_mapping=wrong, report_to="none")


def test_a_run_does_not_go_on_with_other_routes(make_routed: Any) -> None:
    from ray_st.data.dataset_stats import describe_blocks
    from ray_st.training.data.arrangement import Arrangement, fingerprint

    def facts(mapping: dict[str, str]) -> Any:
        part = make_routed(arguments={"router_mapping": mapping}).data.train_specs(1)["train"]
        stats = {"": describe_blocks([], part.datasets[""].encoding.columns)}
        return fingerprint(part, stats, Arrangement(None, (0,), ([],), (None,), (0,)))  # type: ignore[arg-type]

    (found,) = differences(facts(MAPPING), facts({"q": "document", "a": "query"}))
    assert found.startswith("tasks: {'q': 'query', 'a': 'document'} then")


def test_an_evaluator_of_queries_and_documents_asks_each_row(tiny_encoder: Path) -> None:
    model = routed(tiny_encoder)
    asked: list[Any] = []
    encode = model.encode

    def noted(texts: Any, **options: Any) -> Any:
        asked.append(options.get("task"))
        return encode(texts, **options)

    model.encode = noted  # type: ignore[method-assign]
    InformationRetrievalEvaluator({"1": TEXTS[0]}, {"1": TEXTS[1]}, {"1": {"1"}})(model)
    assert asked == ["query", "document"]


def test_a_guide_cannot_read_the_tokens_of_several_vocabularies(tiny_encoder: Path, tiny_model: Any) -> None:
    assert GISTEmbedLoss(routed(tiny_encoder), tiny_model).must_retokenize is False
    other = routed(tiny_encoder)
    other.first.sub_modules["document"][0].tokenizer.add_tokens(["another"])
    with pytest.raises(ValueError, match="the model has a Router whose rows have different vocabularies"):
        GISTEmbedLoss(other, tiny_model)


# ---- two workers, and data that leaves a row out ----

MIXED = {"pairs": ROWS, "documents": ROWS.rename_column("q", "b")}
BY_DATASET = {"pairs": MAPPING, "documents": {"b": "document", "a": "document"}}


def mixed_run(
    folder: str, encoder: str, world: World, mini_batch_size: int | None = None
) -> dict[str, torch.Tensor]:
    """The weights after six steps, of which three leave the row of queries out."""
    model = routed(Path(encoder))
    loss = MultipleNegativesRankingLoss(model, gather_across_devices=True)
    loss.cache(mini_batch_size)
    trainer = SentenceTransformerTrainer(
        model,
        SentenceTransformerTrainingArguments(
            folder,
            max_steps=6,
            global_train_batch_size=6,
            multi_dataset_batch_sampler="round_robin",
            router_mapping=BY_DATASET,
            weight_decay=0.1,
            learning_rate=1e-3,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        ),
        MIXED,
        loss=loss,
    )
    parts = trainer.data.train_specs(world.size)
    loop = trainer.spec().rebuild(local_context(parts, folder, world))
    loop.train()
    return {name: tensor.clone() for name, tensor in loop.model.state_dict().items()}


def one_rank(rank: int, size: int, folder: str, encoder: str, mini_batch_size: int | None) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=size, init_method=f"file://{folder}/meet")
    weights = mixed_run(f"{folder}/{rank}", encoder, World(rank, size), mini_batch_size)
    torch.save(weights, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("mini_batch_size", [None, 2])
def test_two_workers_where_some_batches_leave_a_row_out(
    mini_batch_size: int | None, tmp_path: Path, tiny_encoder: Path, fresh_accelerator: None
) -> None:
    """As one without a gradient cache, weights included that a step leaves out."""
    run_ranks(one_rank, 2, str(tmp_path), str(tiny_encoder), mini_batch_size)
    alone = mixed_run(str(tmp_path / "alone"), str(tiny_encoder), World())
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)

"""The public trainer for embedding models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ray_st.data.prompts import Prompts
from ray_st.model_trainer import ModelTrainer
from ray_st.models.sentence_transformer import SentenceTransformer
from ray_st.training.data.prompting import Batch, Rows, prompt_datasets, prompt_transform
from ray_st.training.family import Family, Features


def _cosent(model: SentenceTransformer) -> nn.Module:
    from ray_st.losses import CoSENTLoss

    return CoSENTLoss(model)


def _embeddings(model: SentenceTransformer, columns: Sequence[Features]) -> tuple[Tensor, ...]:
    return tuple(model(dict(column))["sentence_embedding"] for column in columns)


EMBEDDERS = Family(
    name="SentenceTransformer",
    encoder=lambda model: model.token_encoder(),
    tokenize=lambda model: model.tokenize,
    output=_embeddings,
    default_loss=_cosent,
    save=lambda model, folder: model.save_pretrained(folder),
    load_weights=lambda model, folder: model.load_weights(folder),
    open=SentenceTransformer,
    card=lambda model: model.model_card_data,
)
"""Embedders: each text column is encoded on its own, and losses receive the embeddings."""


class SentenceTransformerTrainer(ModelTrainer):
    """Trains and evaluates embedding models on a Ray cluster.

    Create it on the driver: ``train()`` and ``evaluate()`` run on Ray Train workers. Afterwards ``model``
    holds the trained weights and ``state`` the history, as if training had run locally. Methods that a
    subclass overrides (``compute_loss``, ``get_batch_sampler``, …) take effect on every worker.

    Args:
        model: The model to train.
        args: Training arguments; by default those with the output folder ``tmp_trainer``.
        train_dataset: A :class:`datasets.Dataset` or :class:`datasets.IterableDataset`, a Ray Dataset, file
            paths, a table, columns, rows, or a :class:`ray_st.data.sources.Source`; or a dict of these.
            Columns are passed to the loss in the dataset's order; a column named label, labels, score or
            scores is the label.
        eval_dataset: The evaluation data, in the same forms as ``train_dataset``.
        loss: A loss, or a function that creates it from the model; CoSENT by default.
        evaluator: An evaluator or a list of evaluators.
        data_collator: Builds inputs from rows (a list of dicts of texts), replacing the default collator.
        tokenizer: Replaces the model's tokenizer.
        model_init: Creates the model; pass it instead of ``model``. Called on the driver, with the trial or
            without arguments, when the trainer is created and again by each ``train()``; a loss given as a
            module is copied for each model.
        compute_metrics: Called at each evaluation of a dataset with an ``EvalPrediction``: the embeddings of
            each text column and the labels. Returns metrics by name.
        callbacks: transformers callbacks; they run on the workers.
        optimizers: Optimizer and scheduler to use instead of those that the arguments name. They are created
            here from the parameters of ``model``, and are applied to the workers' copy of the model.
        preprocess_logits_for_metrics: Called for each batch with the tuple of its embeddings and its labels;
            its return value (a tensor, or a tuple of tensors) is passed to ``compute_metrics`` instead.
        scaling_config: Ray Train's ``ScalingConfig``: number and kind of workers. By default one worker per
            GPU of the cluster, or one CPU worker. With ``num_workers=(least, most)`` the number follows the
            cluster. With ``num_workers=0`` everything runs in this process, without Ray: for debugging and
            first experiments.
        run_config: Ray Train's ``RunConfig``: name, storage and failure handling. By default checkpoints go
            to ``args.output_dir`` and a failed worker group is restarted up to three times.
        optimizer_cls_and_kwargs: Optimizer class and its keyword arguments, overriding the training
            arguments; created on the workers.
        processing_class: The newer name of ``tokenizer``.

    Inside a Ray Train ``train_loop_per_worker`` the trainer runs in that worker. Datasets must then be
    identical on every rank, or be the shards of ``ray.train.get_dataset_shard``; see docs/trainer.md.

    Raises:
        ValueError: If the model, the data and the loss are incompatible.
    """

    family = EMBEDDERS

    def maybe_add_prompts_or_dataset_name_column(
        self,
        dataset_dict: Rows | Mapping[str, Rows] | None,
        prompts: Prompts | None = None,
        dataset_name: str | None = None,
    ) -> Any:
        """Datasets that prepend prompts to their texts when rows are read, and add their name where needed.

        ``train`` and ``evaluate`` do this automatically, with ``args.prompts``. Rows get a ``dataset_name``
        column if losses or prompts are given per dataset.

        Args:
            dataset_dict: A dataset, a dict of datasets, or None; not modified.
            prompts: One prompt; a prompt per column; a prompt per dataset; or, per dataset, one per column.
            dataset_name: Name of a single dataset, if it has one.

        Raises:
            ValueError: If prompts per dataset are given for an unnamed dataset, or name an unknown dataset
                or column; or the model formats texts with a chat template.
        """
        excludes = any(getattr(part, "include_prompt", True) is False for part in self.model.modules())
        encoder = self.model.token_encoder()
        if encoder is not None and prompts:
            encoder.check_prefixes()
        count = encoder.prompt_length if excludes and encoder is not None else None
        names_wanted = isinstance(self.loss, Mapping)
        return prompt_datasets(dataset_dict, prompts, dataset_name, names_wanted, count)

    @staticmethod
    def add_prompts_or_dataset_name_transform(
        batch: Batch,
        prompts: str | Mapping[str, str] | None = None,
        prompt_lengths: Mapping[str, int] | int | None = None,
        dataset_name: str | None = None,
        transform: Callable[[Batch], Batch] | None = None,
        **kwargs: Any,
    ) -> Batch:
        """Prepends prompts to the texts of a batch, and adds the name of its dataset.

        Args:
            batch: Values by column.
            prompts: One prompt for all text columns, or one per column.
            prompt_lengths: Number of tokens of the prompt, or of each prompt by its text.
            dataset_name: Name of the dataset, where there are several.
            transform: Applied first.
            **kwargs: Unused; accepted because a dataset's format may pass more arguments.
        """
        return prompt_transform(batch, prompts, prompt_lengths, dataset_name, transform)

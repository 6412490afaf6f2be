"""One worker's training loop: the adapter over transformers' Trainer, steps, evaluation, predictions."""

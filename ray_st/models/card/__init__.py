"""The model card: what is known about a model, and the README.md written from it.

``model_card_data`` collects the facts and ``run_facts`` those of a training run; ``render`` makes the text,
``tables`` its tables and lists. They import torch and yaml, but no other part of this package. A new section
of the card goes into ``render``.
"""

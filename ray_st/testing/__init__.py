"""Conformance kits: the contracts of this package's losses, samplers and evaluators, as tests for your own.

A kit is a class of pytest tests. Subclass it in a test module and define its one fixture, ``case``:

- :class:`LossConformance` with a :class:`LossCase`;
- :class:`ScoreLossConformance` with a :class:`ScoreCase`, for losses over scores of pairs;
- :class:`SamplerConformance` with a :class:`SamplerCase`;
- :class:`EvaluatorConformance` with an :class:`EvaluatorCase`.

The tests need no network, no GPU and no Ray. This package's own tests are subclasses, too. A kit for another
kind of part is one file here. It may import any room of the package; none imports it.
"""

from __future__ import annotations

try:
    import pytest
except ImportError as error:
    raise ImportError(
        "ray_st.testing is made of pytest tests, and pytest is not installed: pip install pytest"
    ) from error

from ray_st.util.lazy import lazy_module

_NAMES = {
    "EvaluatorCase": "ray_st.testing.evaluator_conformance",
    "EvaluatorConformance": "ray_st.testing.evaluator_conformance",
    "FakeModel": "ray_st.testing.fake_model",
    "GivenLogits": "ray_st.testing.tiny_reranker",
    "LossCase": "ray_st.testing.loss_conformance",
    "LossConformance": "ray_st.testing.loss_conformance",
    "SamplerCase": "ray_st.testing.sampler_conformance",
    "SamplerConformance": "ray_st.testing.sampler_conformance",
    "ScoreCase": "ray_st.testing.score_loss_conformance",
    "ScoreLossConformance": "ray_st.testing.score_loss_conformance",
    "TinyEncoder": "ray_st.testing.tiny_encoder",
    "TinyReranker": "ray_st.testing.tiny_reranker",
}

# A failed assertion shows its values, as in a test module.
pytest.register_assert_rewrite(*sorted({module for module in _NAMES.values() if "conformance" in module}))

__getattr__, __dir__, __all__ = lazy_module(__name__, _NAMES)

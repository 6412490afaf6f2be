from __future__ import annotations

import subprocess
import sys

from ray_st import evaluation

PUBLIC = [
    "BinaryClassificationEvaluator",
    "EmbeddingSimilarityEvaluator",
    "InformationRetrievalEvaluator",
    "LabelAccuracyEvaluator",
    "MSEEvaluator",
    "MSEEvaluatorFromDataFrame",
    "NanoBEIREvaluator",
    "ParaphraseMiningEvaluator",
    "ReciprocalRankFusionEvaluator",
    "RerankingEvaluator",
    "SentenceEvaluator",
    "SequentialEvaluator",
    "SimilarityFunction",
    "TranslationEvaluator",
    "TripletEvaluator",
]


def test_the_list_is_complete_and_each_name_is_there() -> None:
    assert evaluation.__all__ == PUBLIC
    assert all(getattr(evaluation, name).__name__ == name for name in PUBLIC)


def test_naming_the_package_loads_no_torch() -> None:
    code = "import sys, ray_st.evaluation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

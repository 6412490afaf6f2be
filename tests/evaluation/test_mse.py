from __future__ import annotations

import numpy as np
import pytest

from ray_st.evaluation import MSEEvaluator, MSEEvaluatorFromDataFrame

A, B = ["a", "b", "c"], ["d", "e", "f"]
ROWS = [{"en": "a", "de": "d"}, {"en": "b", "de": " "}, {"en": "c", "de": "f"}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((A, B[:2]), r"same length; found \{'source_sentences': 3, 'target_sentences': 2\}"),
        ((A, [None, *B[1:]]), "target_sentences; row 0 is None"),
        ((A, B), "needs a teacher_model to encode source_sentences; found None"),
    ],
)
def test_bad_data_is_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        MSEEvaluator(*arguments)


@pytest.mark.parametrize(
    ("rows", "pairs", "message"),
    [
        (ROWS, [("en", "fr")], r"text for 'fr' in each row.*row 0 has None and the keys \['de', 'en'\]"),
        ([*ROWS, {"en": "a", "de": None}], [("en", "de")], "text for 'de' in each row.*row 3 has None"),
        (
            ["en", "de"],
            [("en", "de")],
            r"row 0 is 'en'\. Convert a pandas DataFrame with to_dict\('records'\)",
        ),
        ([{"en": "a", "de": ""}], [("en", "de")], "no row has a text for both 'en' and 'de'"),
        (ROWS, [], "at least one row; combinations are empty"),
    ],
)
def test_bad_rows_are_refused(rows, pairs, message, model) -> None:
    with pytest.raises(ValueError, match=message):
        MSEEvaluatorFromDataFrame(rows, model, pairs)


def test_a_student_of_its_own_dimension_is_refused(make_model) -> None:
    for evaluator in (
        MSEEvaluator(A, B, make_model(8)),
        MSEEvaluatorFromDataFrame(ROWS, make_model(8), [("en", "de")]),
    ):
        with pytest.raises(ValueError, match=r"same shape; found \(., 8\) and \(., 1\)"):
            evaluator(make_model(1))


def test_the_teacher_itself_has_no_error(model) -> None:
    assert MSEEvaluator(A, A, model, name="dev")(model) == {"dev_negative_mse": 0}


def test_nan_embeddings_give_nan(model, make_model) -> None:
    broken = make_model()
    broken._embed = lambda text: np.full(16, np.nan, dtype=np.float32)
    assert np.isnan(MSEEvaluator(A, B, model)(broken)["negative_mse"])


def test_blank_rows_are_left_out_and_texts_encoded_once(model, make_model) -> None:
    teacher = make_model()
    found = MSEEvaluatorFromDataFrame([*ROWS, ROWS[0]], teacher, [("en", "de"), ("de", "en")])(model)
    assert [call["texts"] for call in teacher.calls] == [["a", "c", "d", "f"]]
    assert [call["texts"] for call in model.calls] == [["d", "f", "a", "c"]]
    expected = MSEEvaluator(["a", "c", "a"], ["d", "f", "d"], teacher)(model)
    assert found == pytest.approx(expected)

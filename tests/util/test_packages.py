from __future__ import annotations

import pytest

from ray_st.models.adapter.peft_folder import load_peft
from ray_st.util import is_training_available, packages
from ray_st.util.packages import check_misfits, misfits


@pytest.mark.parametrize("missing", [None, "accelerate", "datasets"])
def test_both_packages_are_needed(missing: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == missing else object())
    assert is_training_available() is (missing is None)


def test_here_they_are() -> None:
    assert is_training_available()


@pytest.mark.parametrize(
    ("transformers", "peft", "fits"),
    [
        ("5.23.0", "0.21.2", True),
        ("5.24.0", "0.21.2", False),
        ("5.24.0.dev0", "0.21.2", True),
        ("5.24.0", "0.22.0", True),
        ("5.25.1", "0.20.0", False),
        ("5.24.0", None, True),
    ],
)
def test_transformers_and_peft(transformers: str, peft: str | None, fits: bool) -> None:
    found = misfits({"transformers": transformers, "peft": peft}.get)
    assert (found == []) is fits
    if found:
        assert found == [
            (
                f"transformers {transformers} does not work with peft {peft}",
                "pip install 'transformers<5.24', or peft that is not <0.22",
            )
        ]


def test_what_is_installed_here_fits() -> None:
    assert misfits() == []
    assert packages.installed("no-such-package") is None


def test_a_package_is_refused_before_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "misfits", lambda: [("transformers 9 does not work with peft 0", "cure")])
    check_misfits("torch")
    with pytest.raises(ImportError, match="transformers 9 does not work with peft 0: cure"):
        load_peft()

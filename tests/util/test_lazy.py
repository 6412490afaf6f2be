from __future__ import annotations

import subprocess
import sys

import pytest

import ray_st.models
import ray_st.util


@pytest.mark.parametrize("package", [ray_st.util, ray_st.models], ids=lambda package: package.__name__)
def test_every_name_in_a_table_is_there(package: object) -> None:
    names = package.__all__  # type: ignore[attr-defined]
    assert names == sorted(names)
    assert set(names) <= set(dir(package))
    assert all(getattr(package, name) is not None for name in names)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("package", ["ray_st.util", "ray_st.models"])
def test_naming_a_package_loads_no_torch(package: str) -> None:
    code = f"import sys, {package}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

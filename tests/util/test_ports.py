from __future__ import annotations

import pytest

from ray_st.util import ports


def test_a_port_loads_its_provider_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_PROVIDERS", {})
    ports.provide("number", "nowhere.at.all", "pi")
    ports.provide("number", "math", "pi")
    assert ports.use("number") == pytest.approx(3.14159, abs=1e-5)


def test_the_root_package_provides_the_pool() -> None:
    from ray_st.runtime.encode.encode_pool import start_pool

    assert ports.use("encode_pool") is start_pool

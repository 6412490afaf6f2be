from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ray_st.util.cluster_address import check_answers, found_address, is_loopback


@pytest.fixture
def noted(tmp_path: Path) -> Path:
    """A folder in which `ray start` has left the address of its cluster."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:6379\n")
    return tmp_path


@pytest.mark.parametrize(
    ("named", "found"),
    [
        (None, "127.0.0.1:6379"),
        ("", "127.0.0.1:6379"),
        ("auto", "127.0.0.1:6379"),
        ("10.0.0.7:6380", "10.0.0.7:6380"),
        ("local", None),
        ("ray://head:10001", None),
    ],
)
def test_the_address_that_ray_would_join(noted: Path, named: str | None, found: str | None) -> None:
    environment = {"RAY_TMPDIR": str(noted)} | ({} if named is None else {"RAY_ADDRESS": named})
    assert found_address(environment) == found


def test_no_address(tmp_path: Path) -> None:
    assert found_address({"RAY_TMPDIR": str(tmp_path)}) is None


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:6379", True),
        ("localhost:6379", True),
        ("[::1]:6379", True),
        ("10.0.0.7:6379", False),
        ("ray-head.default.svc:6379", False),
    ],
)
def test_loopback_addresses(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


def test_what_answers_and_what_does_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        check_answers(address)
    with pytest.raises(ConnectionError, match=f"no Ray cluster answers at {address} .* RAY_ADDRESS=local"):
        check_answers(address)
    with pytest.raises(ConnectionError, match="no Ray cluster answers at nonsense"):
        check_answers("nonsense")

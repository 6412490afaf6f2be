"""What a node says of itself, tried on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ray_st.runtime.doctor import node


def test_it_needs_nothing_but_what_every_ray_node_has() -> None:
    heavy = {"ray", "torch", "numpy", "pyarrow", "ray_st"}
    code = f"import runpy, sys; runpy.run_path({node.__file__!r}); print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_listeners_name_their_process() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as plain,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as six,
    ):
        found = {(address, port): command for address, port, command in node.listeners()}
        for server, address in ((plain, "127.0.0.1"), (six, "::1")):
            assert os.path.basename(sys.executable) in found[address, server.getsockname()[1]]
    assert not node.is_ray("/usr/sbin/sshd -D")
    assert node.is_ray("/venv/ray/core/src/ray/raylet/raylet --x")


def test_facts_are_plain_and_hold_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "canary-5c1f")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    facts = node.gather()
    assert facts["settings"]["RAY_AUTH_MODE"] == "token"
    assert facts["versions"]["ray"]
    assert facts["cpus"] > 0
    assert facts["shm_bytes"] > 0
    assert facts["memory_bytes"] > 2**28
    assert "127.0.0.1" in next(iter(facts["interfaces"].values()))
    assert set(facts["rdma"]) == {"adapters", "usable", "library", "locked_bytes"}
    assert "canary-5c1f" not in repr({name: value for name, value in facts.items() if name != "listeners"})


def test_what_nvidia_smi_prints() -> None:
    assert node.mebibytes("81559\n 81559 \n[N/A]\n") == [81559 * 2**20, 81559 * 2**20]
    assert node.mebibytes("") == []


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
def test_a_container_s_memory(name: str, tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    machine = node.memory_bytes(tmp_path)
    (tmp_path / name).write_text("1048576\n")
    assert node.memory_bytes(tmp_path) == 2**20
    (tmp_path / name).write_text("max\n")
    assert node.memory_bytes(tmp_path) == machine > 2**28


def test_rdma_devices(tmp_path: Path) -> None:
    assert node.rdma_facts(tmp_path)["adapters"] == []
    for path in ("sys/class/infiniband/mlx5_1", "sys/class/infiniband/mlx5_0", "dev/infiniband"):
        (tmp_path / path).mkdir(parents=True)
    for device in ("uverbs0", "rdma_cm"):
        (tmp_path / "dev/infiniband" / device).touch()
    facts = node.rdma_facts(tmp_path)
    assert (facts["adapters"], facts["usable"]) == (["mlx5_0", "mlx5_1"], 1)


def certificate(folder: Path, name: str) -> tuple[str, str]:
    """A certificate that signs itself, and its key."""
    key, made = str(folder / f"{name}.key"), str(folder / f"{name}.crt")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", key, "-out", made, "-subj", f"/CN={name}", "-days", "2"]
    subprocess.run(command, check=True, capture_output=True)
    return made, key


@pytest.mark.parametrize(
    ("use", "fault"),
    [
        ("own", None),
        ("other-key", "KEY_VALUES_MISMATCH"),
        ("other-authority", "verify failed"),
        ("gone", "no such file"),
    ],
)
def test_certificates_are_tried(
    use: str, fault: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, key = certificate(tmp_path, "one")
    other, other_key = certificate(tmp_path, "two")
    monkeypatch.setenv("RAY_TLS_SERVER_CERT", made)
    monkeypatch.setenv("RAY_TLS_SERVER_KEY", {"other-key": other_key, "gone": "/gone"}.get(use, key))
    monkeypatch.setenv("RAY_TLS_CA_CERT", other if use == "other-authority" else made)
    found = node.tls_fault()
    assert found is None if fault is None else fault in str(found)


def test_a_token_file_that_others_can_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert node.exposed_token() is None
    (tmp_path / "token").touch(0o644)
    assert node.exposed_token() == str(tmp_path / "token")
    (tmp_path / "token").chmod(0o600)
    assert node.exposed_token() is None


def test_a_probe_s_storage(tmp_path: Path) -> None:
    probe = node.Probe()
    assert probe.write(str(tmp_path / "new"), "a") is None
    assert probe.missing(str(tmp_path / "new"), ["a", "b"]) == ["b"]
    probe.remove(str(tmp_path / "new"), "a")
    assert probe.missing(str(tmp_path / "new"), ["a"]) == ["a"]
    (tmp_path / "file").touch()
    assert "Error" in str(probe.write(str(tmp_path / "file"), "a"))
    assert "nothing://there" in str(probe.write("nothing://there", "a"))


def test_a_probe_s_network() -> None:
    probe = node.Probe()
    port = probe.listen("127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        gone = closed.getsockname()[1]
    reached, refused = probe.reach([("127.0.0.1", port), ("127.0.0.1", gone)])
    assert reached is None
    assert "refused" in str(refused)

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from ray_st.cli import main
from ray_st.cli.clusters.local import LocalSpec, settings, start_command

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_loopback_and_a_token_unless_told_otherwise(tmp_path: Path) -> None:
    command = start_command(LocalSpec(object_store="500Mi"))
    assert command[0].endswith("/ray")
    assert {"--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"} <= set(command)
    assert "--object-store-memory=524288000" in command
    assert not [word for word in command if "num-cpus" in word]
    made = settings(LocalSpec(), {"PATH": "/bin"}, tmp_path)
    ours = {
        "RAY_AUTH_MODE": "token",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_JOB_STOP_WAIT_TIME_S": "60",
    }
    assert made == {"PATH": f"{Path(sys.executable).parent}:/bin", **ours}
    assert (
        settings(LocalSpec(), {"RAY_JOB_STOP_WAIT_TIME_S": "9"}, tmp_path)["RAY_JOB_STOP_WAIT_TIME_S"] == "9"
    )
    assert "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in settings(LocalSpec("10.0.0.1"), {}, tmp_path)


def test_a_token_is_made_once_for_this_user_only(tmp_path: Path) -> None:
    settings(LocalSpec(), {}, tmp_path)
    path = tmp_path / ".ray" / "auth_token"
    token = path.read_text()
    assert len(token) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    settings(LocalSpec(), {}, tmp_path)
    assert path.read_text() == token


@pytest.mark.parametrize("given", [{"RAY_AUTH_TOKEN": "x"}, {"RAY_AUTH_TOKEN_PATH": "/x"}])
def test_a_token_that_is_given_is_used(given: dict[str, str], tmp_path: Path) -> None:
    settings(LocalSpec(), given, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_example_starts_a_node_in_place_of_this_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    started = []
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os, "execve", lambda *words: started.append(words))
    free = [f"{name}={free_port()}" for name in ("port", "dashboard_port")]
    assert main(["cluster", "start", str(ROOT / "clusters/local.yaml"), "--check"]) == 0
    assert main(["cluster", "start", "--check"]) == 0
    assert main(["cluster", "start", "cpus=3", "--check"]) == 0
    assert started == []
    assert "--num-cpus=3" in capsys.readouterr().out
    assert main(["cluster", "start", str(ROOT / "clusters/local.yaml"), "cpus=3", *free]) == 0
    ((program, command, environment),) = started
    assert program == command[0]
    assert "--num-cpus=3" in command
    assert environment["RAY_AUTH_MODE"] == "token"
    assert "start --head --block" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["host=0.0.0.0", "token=false"],
            "token: refused: without a token whoever reaches 0.0.0.0 runs code here",
        ),
        (["host=10.0.0.1", "token=false"], "token: refused"),
        (["host=everywhere"], "host: expected an IP address of this machine, found 'everywhere'"),
        (["prot=1"], "prot: unknown key 'prot'; did you mean 'port'?"),
        (["cpus=two"], "cpus: expected a whole number or null, found 'two'"),
        (["object_store=much"], "object_store: expected an amount such as 64Gi"),
    ],
)
def test_refusals(overrides: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "start", str(ROOT / "clusters/local.yaml"), "--check", *overrides]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["port", "dashboard_port"])
def test_a_port_that_is_taken_is_refused_with_its_owner(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "execve", lambda *words: pytest.fail("started"))
    ports = {"port": free_port(), "dashboard_port": free_port()}
    with socket.create_server(("127.0.0.1", 0)) as server:
        ports[name] = server.getsockname()[1]
        words = [f"{key}={port}" for key, port in ports.items()]
        assert main(["cluster", "start", str(ROOT / "clusters/local.yaml"), *words]) == 2
    said = capsys.readouterr().err
    assert f"{name}: port {ports[name]} of 127.0.0.1 cannot be taken (Address already in use)" in said
    assert f": process {os.getpid()} (" in said

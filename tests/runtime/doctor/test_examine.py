"""The doctor on a cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ray_st.cli import main
from ray_st.runtime.doctor import examine
from ray_st.runtime.doctor.findings import ERROR, OK

pytestmark = pytest.mark.ray


def test_a_cluster_is_examined(cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = 0
    try:
        main(["doctor", "--quick", "--json", "--storage", str(tmp_path / "runs")])
    except SystemExit as stop:
        code = int(str(stop.code))
    findings = json.loads(capsys.readouterr().out)
    levels = {finding["check"]: finding["level"] for finding in findings}
    for check in ("versions", "clocks", "network", "storage", "dashboard"):
        assert levels[check] == OK
    assert all(finding["cure"] for finding in findings if finding["level"] == ERROR)
    assert code == int(any(finding["level"] == ERROR for finding in findings))
    assert list((tmp_path / "runs").iterdir()) == []


def test_storage_that_cannot_be_written(
    cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--quick", "--storage", str(tmp_path / "file")])
    assert stop.value.code == 1
    shown = capsys.readouterr().out
    assert f"{tmp_path}/file cannot be written" in shown
    assert "-> mount the volume there" in shown


def test_a_node_that_does_not_answer(
    cluster: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(examine.node_module.Probe):
        def gather(self) -> dict[str, object]:
            raise OSError("no /proc here")

    monkeypatch.setattr(examine.node_module, "Probe", Broken)
    with pytest.raises(SystemExit):
        main(["doctor", "--quick"])
    shown = capsys.readouterr().out
    assert "it does not answer: RayTaskError(OSError)" in shown
    assert "-> look into its logs" in shown


def test_a_cluster_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise ConnectionError("ray client connection timeout")

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", refuse)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    (finding,) = examine.examine("10.1.2.3:6379")
    assert (finding.level, finding.check, finding.where) == (ERROR, "connection", "10.1.2.3:6379")
    assert "ray get-auth-token" in finding.cure
    assert "ray client connection timeout" in finding.found

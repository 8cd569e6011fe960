"""The cluster files hold what they promise, checked without a cloud: Ray's own schema and AWS provider, no open port, a
token everywhere, an end when idle, and a package for `ray job submit` that is small and whole."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from deadlines import HANG

ROOT = Path(__file__).parents[1]
FILES = {name: ROOT / path for name, path in (("aws", "cluster.yaml"), ("gcp", "cluster/gcp.yaml"),
                                              ("on-prem", "cluster/on-prem.yaml"))}  # fmt: skip
CLOUDS = ("aws", "gcp")
pytest.importorskip("ray")
everywhere = pytest.mark.parametrize("name", FILES)
in_clouds = pytest.mark.parametrize("name", CLOUDS)


def written(name: str) -> dict:
    return yaml.safe_load(FILES[name].read_text())


def starts(cluster: dict) -> list[str]:
    """The `ray start` commands of head and workers."""
    commands = cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]
    return [command for command in commands if "ray start" in command]


@everywhere
def test_ray_takes_it(name):
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(written(name))
    validate_config(prepared)
    own = written(name)
    for kind in ("head", "worker"):
        assert prepared[f"{kind}_setup_commands"] == own["setup_commands"] + own[f"{kind}_setup_commands"]
        assert prepared[f"{kind}_start_ray_commands"] == own[f"{kind}_start_ray_commands"], "Ray's defaults creep in"
    assert prepared["initialization_commands"] == []
    for node in prepared["available_node_types"].values():
        assert node.get("max_workers", 0) <= prepared["max_workers"]


def test_a_misspelt_key_would_be_noticed():
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(ValidationError, match="idle_timeout"):
        validate_config(prepare_config({**written("aws"), "idle_timeout": 5}))


@everywhere
def test_token_authentication_is_on_and_every_node_has_the_token(name):
    cluster = written(name)
    for command in starts(cluster):
        assert "RAY_AUTH_MODE=token" in command
    assert any("RAY_AUTH_MODE=token" in command and ".bashrc" in command for command in cluster["setup_commands"])
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert cluster["setup_commands"][0] == "chmod 600 ~/.ray/auth_token"
    assert "(umask 077; ray get-auth-token" in FILES[name].read_text().partition("cluster_name")[0], "on the laptop too"


@everywhere
def test_nothing_but_ssh_is_open(name):
    cluster = written(name)
    assert "--dashboard-host=127.0.0.1" in shlex.split(starts(cluster)[0])
    assert "IpPermissions" not in cluster["provider"].get("security_group", {}), "Ray's own: the group itself, and ssh"
    assert "0.0.0.0" not in FILES[name].read_text()


@in_clouds
def test_it_scales_the_head_is_on_demand_and_the_workers_are_spot(name):
    cluster = written(name)
    head, workers = (cluster["available_node_types"][kind] for kind in ("head", "gpu"))
    assert workers["min_workers"] < workers["max_workers"]
    assert 0 < cluster["idle_timeout_minutes"] <= 15
    spot = re.compile(r"spot|preemptible", re.IGNORECASE)
    assert spot.search(str(workers["node_config"]))
    assert not spot.search(str(head["node_config"]))
    assert head["resources"] == {"CPU": 0}


@in_clouds
def test_images_lie_on_the_local_disk_of_every_node_under_one_path(name):
    cluster = written(name)
    assert any("/mnt/store" in command and "nvme" in command for command in cluster["setup_commands"])
    for command in starts(cluster):
        assert "RAY_ROBUST_STORE=/mnt/store" in command


@everywhere
def test_what_is_mounted_is_there(name):
    mounts = {there: here for there, here in written(name)["file_mounts"].items() if not here.startswith("~")}
    assert mounts == {"~/requirements.lock": "requirements.lock"}
    assert (ROOT / "requirements.lock").exists()


@everywhere
def test_a_node_that_starts_later_has_the_releases_of_the_head(name):
    """The bounds of requirements.txt would give it a newer Ray, which the head's refuses."""
    installs = [command for command in written(name)["setup_commands"] if "pip install" in command]
    assert installs == ["~/env/bin/pip install -q --require-hashes -r ~/requirements.lock"]
    lock = (ROOT / "requirements.lock").read_text()
    assert re.search(r"^ray==[\d.]+ ", lock, re.MULTILINE)
    assert re.search(r"^torch==[\d.]+ ", lock, re.MULTILINE)


@everywhere
def test_a_job_that_is_stopped_has_time_for_its_report(name):
    (head,) = (command for command in written(name)["head_start_ray_commands"] if "ray start" in command)
    before, started, _ = head.partition("ray start")
    assert started
    assert "RAY_JOB_STOP_WAIT_TIME_S=300" in before.split()


@everywhere
def test_every_command_is_a_shell_command(name):
    cluster = written(name)
    for key, commands in cluster.items():
        for command in commands if key.endswith("_commands") else ():
            subprocess.run(["bash", "-n", "-c", command], check=True, capture_output=True)


# --- the end when idle: the commands of the file, in a shell where a minute passes at once


STUBS = {
    "nohup": 'exec "$@"',
    "flock": 'shift 2; exec "$@"',
    "sleep": 'echo x >> minutes; test "$(wc -l < minutes)" -lt 500',
    "pgrep": 'test "$(wc -l < minutes)" -le "$BUSY"',
    "sudo": 'test "$1" = shutdown && wc -l < minutes > ended; kill "$PPID"',
}


def minutes_until_it_ends(command: str, folder: Path, busy: int) -> int:
    """Run an idle stop where what it looks for is there for `busy` minutes."""
    folder.mkdir()
    for name, body in STUBS.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder), "BUSY": str(busy)}
    foreground = command.removesuffix("&")
    subprocess.run(["bash", "-c", foreground], cwd=folder, env=environment, check=False, timeout=HANG)
    return int((folder / "ended").read_text())


@pytest.mark.slow
@in_clouds
def test_an_hour_without_a_sweep_ends_the_head_and_a_lost_head_ends_the_workers(name, tmp_path):
    cluster = written(name)
    (head,) = (command for command in cluster["head_start_ray_commands"] if "shutdown" in command)
    (worker,) = (command for command in cluster["worker_start_ray_commands"] if "shutdown" in command)
    assert minutes_until_it_ends(head, tmp_path / "idle", busy=0) == 60
    assert minutes_until_it_ends(head, tmp_path / "busy", busy=90) == 150
    assert minutes_until_it_ends(worker, tmp_path / "lost", busy=30) == 40
    if name == "aws":
        node = cluster["available_node_types"]["head"]["node_config"]
        assert node["InstanceInitiatedShutdownBehavior"] == "terminate"


def test_the_idle_stop_knows_a_sweep_by_its_command_line():
    (head,) = (command for command in written("aws")["head_start_ray_commands"] if "shutdown" in command)
    pattern = re.search(r'pgrep -f "([^"]+)"', head)[1]
    assert re.search(pattern, "python -m ray_robust.sweep sweeps/quantity.yaml --out s3://bucket/quantity")
    assert not re.search(pattern, head), "it must not take itself for a sweep"


# --- AWS, as Ray's own provider fills the file in


@pytest.mark.slow
def test_rays_aws_provider_takes_it(monkeypatch, tmp_path):
    moto = pytest.importorskip("moto")
    import boto3
    from ray.autoscaler._private.aws import config as provider
    from ray.autoscaler._private.aws.utils import client_cache, resource_cache
    from ray.autoscaler._private.util import prepare_config

    monkeypatch.setenv("HOME", str(tmp_path))  # it writes the key pair below ~/.ssh
    (tmp_path / ".ssh").mkdir()
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setattr(provider.time, "sleep", lambda seconds: None)  # what it makes is there at once
    cluster = prepare_config(copy.deepcopy(written("aws")))
    with moto.mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        for cache in (resource_cache, client_cache):  # of clients for the real one
            cache.cache_clear()
        (image,) = boto3.client("ec2").describe_images(Owners=["099720109477"])["Images"][:1]
        for node in cluster["available_node_types"].values():  # AWS's public parameters are not simulated
            assert node["node_config"]["ImageId"].startswith("resolve:ssm:/aws/service/")
            node["node_config"]["ImageId"] = image["ImageId"]
        made = provider.bootstrap_aws(cluster)
        ours = [{"Name": "group-name", "Values": ["ray-robust"]}]
        groups = boto3.client("ec2").describe_security_groups(Filters=ours)
    (group,) = groups["SecurityGroups"]
    world = [rule for rule in group["IpPermissions"] if rule.get("IpRanges") or rule.get("Ipv6Ranges")]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in world] == [(22, 22)]
    nodes = {name: node["node_config"] for name, node in made["available_node_types"].items()}
    assert "IamInstanceProfile" in made["head_node"]
    assert nodes["gpu"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in nodes["head"]
    assert all(node["KeyName"] for node in nodes.values())


def test_the_profile_of_the_head_can_be_given_to_the_workers():
    """Ray gives it to the head alone, and its role lacks the right to hand it on; AWS's own policies are not asked."""
    from ray.autoscaler._private.aws import config as provider

    text = FILES["aws"].read_text()
    line = f"      IamInstanceProfile: {{Name: {provider.DEFAULT_RAY_INSTANCE_PROFILE}}}"
    worker = yaml.safe_load(text.replace(line.replace("Iam", "# Iam"), line))["available_node_types"]["gpu"]
    assert worker["node_config"]["IamInstanceProfile"] == {"Name": provider.DEFAULT_RAY_INSTANCE_PROFILE}
    assert "IamInstanceProfile" not in written("aws")["available_node_types"]["gpu"]["node_config"], "no worker starts"
    command = text[text.index("aws iam put-role-policy") :]
    words = shlex.split(command[: command.index("}'") + 2].replace("\n      #     ", " "))
    given = dict(zip(words[3::2], words[4::2], strict=True))
    (statement,) = json.loads(given["--policy-document"])["Statement"]
    role = provider.DEFAULT_RAY_IAM_ROLE
    assert given["--role-name"] == role
    assert statement == {"Effect": "Allow", "Action": "iam:PassRole", "Resource": f"arn:aws:iam::*:role/{role}"}


# --- Kubernetes

CONFINED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
POD = {"containers", "volumes", "restartPolicy", "securityContext", "automountServiceAccountToken"}
CONTAINER = {"name", "image", "env", "ports", "resources", "volumeMounts", "securityContext"}
GROUP = {"rayStartParams", "template", "serviceType"}
SPEC = {"rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec",
        "workerGroupSpecs"}  # fmt: skip


def test_kuberay_has_the_shape_of_the_custom_resource():
    resource, _policy = yaml.safe_load_all((ROOT / "cluster/kuberay.yaml").read_text())
    assert (resource["apiVersion"], resource["kind"]) == ("ray.io/v1", "RayCluster")
    spec = resource["spec"]
    assert set(spec) <= SPEC
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    options = {"version": "v2", "idleTimeoutSeconds": 600, "securityContext": CONFINED}
    assert spec["autoscalerOptions"] == options
    head, (worker,) = spec["headGroupSpec"], spec["workerGroupSpecs"]
    assert set(head) <= GROUP
    assert head["serviceType"] == "ClusterIP"
    assert set(worker) <= GROUP - {"serviceType"} | {"groupName", "replicas", "minReplicas", "maxReplicas"}
    assert worker["minReplicas"] <= worker["replicas"] <= worker["maxReplicas"]
    for group in (head, worker):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "a map of texts in the CRD"
        pod = group["template"]["spec"]
        assert set(pod) <= POD
        volumes = {volume["name"] for volume in pod["volumes"]}
        (container,) = pod["containers"]
        assert set(container) <= CONTAINER
        assert container["securityContext"] == CONFINED
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert all(isinstance(entry["value"], str) for entry in container["env"])
        assert container["resources"]["limits"] == container["resources"]["requests"]
    stop = {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "300"}
    assert stop in head["template"]["spec"]["containers"][0]["env"]
    assert "nvidia.com/gpu" in worker["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_only_the_pods_of_a_cluster_reach_each_other():
    resource, policy = yaml.safe_load_all((ROOT / "cluster/kuberay.yaml").read_text())
    assert (policy["apiVersion"], policy["kind"]) == ("networking.k8s.io/v1", "NetworkPolicy")
    own = {"matchLabels": {"ray.io/cluster": resource["metadata"]["name"]}}  # a label that the operator gives each pod
    ingress = [{"from": [{"podSelector": own}]}]
    assert policy["spec"] == {"podSelector": own, "policyTypes": ["Ingress"], "ingress": ingress}


def test_the_image_runs_as_the_user_that_its_pods_ask_for():
    lines = (ROOT / "cluster/Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    (made,) = (line for line in lines if "useradd" in line)
    resource, _policy = yaml.safe_load_all((ROOT / "cluster/kuberay.yaml").read_text())
    pod = resource["spec"]["headGroupSpec"]["template"]["spec"]["securityContext"]
    assert users[-1] == made.split()[-2] != "root"
    assert f"--uid {pod['runAsUser']} " in made
    assert "--require-hashes" in lines[-1]


def test_the_ray_of_the_image_is_one_that_the_project_takes():
    version = next(yaml.safe_load_all((ROOT / "cluster/kuberay.yaml").read_text()))["spec"]["rayVersion"]
    assert f"\nray=={version} " in (ROOT / "requirements.lock").read_text()
    assert f"rayproject/ray:{version}-py3" in (ROOT / "cluster/Dockerfile").read_text()
    (bound,) = re.findall(r"^ray\[.*\]>=([\d.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert tuple(map(int, version.split("."))) >= tuple(map(int, bound.split(".")))


# --- the package of a job

PACK = """
import logging, sys
from ray._private.runtime_env.packaging import create_package, get_uri_for_directory
from pathlib import Path
uri = get_uri_for_directory(sys.argv[1], include_gitignore=True, excludes=[])
create_package(sys.argv[1], Path(sys.argv[2]), include_gitignore=True, logger=logging.getLogger())
"""


def test_a_job_takes_along_what_it_needs_and_little_else(tmp_path):
    checkout, package = tmp_path / "checkout", tmp_path / "package.zip"
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", str(ROOT), str(checkout)], check=True)
    (checkout / ".rayignore").write_text((ROOT / ".rayignore").read_text())
    for useless in (".venv/lib/large.so", "runs/quantity/results.csv"):
        (checkout / useless).parent.mkdir(parents=True)
        (checkout / useless).write_bytes(os.urandom(1 << 16))
    environment = {**os.environ, "RAY_RUNTIME_ENV_IGNORE_GITIGNORE": "0"}
    subprocess.run([sys.executable, "-c", PACK, str(checkout), str(package)], check=True, env=environment)
    with zipfile.ZipFile(package) as packed:
        names = set(packed.namelist())
    product = subprocess.run(
        ["git", "-C", str(checkout), "ls-files", "ray_robust", "analysis", "sweeps"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert {"ray_robust/sweep.py", "analysis/report/template/report.html", "sweeps/quickstart.yaml"} <= set(product)
    assert set(product) <= names  # whatever .rayignore comes to name, also a folder of that name further down
    tops = {name.partition("/")[0] for name in names}
    assert not tops & {".git", ".venv", "runs", "tests", "docs", "bench", "cluster"}
    assert package.stat().st_size < 4_000_000

"""The files to deploy with, held to what the code really has, as far as that goes without a network."""

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from typer.core import TyperGroup
from typer.main import get_command

from mcp_sessions.asgi.health import ALIVE, READY
from mcp_sessions.asgi.settings import HttpSettings
from mcp_sessions.cli.app import app
from mcp_sessions.durations import duration_of
from mcp_sessions.settings import ENV_PREFIX, Settings
from tests.support.distributions import build
from tests.support.nginx import nginx_program
from tests.support.pages import Page

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
UNIT = DEPLOY / "systemd" / "mcp-sessions.service"
MANIFESTS: list[dict[str, Any]] = [
    each for file in sorted((DEPLOY / "kubernetes").glob("*.yaml")) for each in yaml.safe_load_all(file.read_text())
]


def instructions(name: str) -> list[str]:
    """Return what follows a word of the Dockerfile, wherever it stands."""
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)


def unit() -> configparser.SectionProxy:
    """Return the service's part of the systemd unit."""
    parser = configparser.ConfigParser(interpolation=None, delimiters="=", strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser["Service"]


def pods() -> Iterator[dict[str, Any]]:
    """Return what runs in Kubernetes."""
    for each in MANIFESTS:
        if each["kind"] in {"Deployment", "Job"}:
            yield each["spec"]["template"]["spec"]


def command_lines() -> list[list[str]]:
    """Return each command line that starts ours, from its name on."""
    found = [json.loads(each) for each in instructions("CMD")]
    found += [each["command"] for each in COMPOSE["services"].values() if "command" in each]
    found += [container["command"] for pod in pods() for container in pod["containers"]]
    found += [shlex.split(unit()[name]) for name in ("ExecStartPre", "ExecStart")]
    return [[Path(name).name, *arguments] for name, *arguments in found]


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the name of a command and its options, as the command line understands them; a wrong one is an error."""
    command: Any = get_command(app)
    name, *arguments = words
    while isinstance(command, TyperGroup):
        name, *arguments = arguments
        command = command.commands[name]
    return name, command.make_context(name, arguments).params


@pytest.mark.parametrize("words", command_lines(), ids=" ".join)
def test_a_command_line_is_one_that_there_is(words: list[str]) -> None:
    """Each command is ours, takes its options, and serves where the probes and the proxy look for it."""
    assert words[0] == "mcp-sessions"
    name, options = parsed(words)
    assert name in {"serve", "upgrade"}
    assert name == "upgrade" or options["port"] == 8000


def test_variables_are_settings() -> None:
    """Whatever is set by a variable of ours is a setting."""
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    known |= {f"{HttpSettings.model_config['env_prefix']}{name.upper()}" for name in HttpSettings.model_fields}
    files = [file for file in DEPLOY.rglob("*") if file.suffix in {".yaml", ".service", ".conf"}]
    named = {each for file in files for each in re.findall(rf"\b{ENV_PREFIX}\w+", file.read_text())}
    assert named
    assert named <= known


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
def test_a_manifest_fits_the_schema_of_kubernetes(manifest: dict[str, Any]) -> None:
    """Each manifest is valid for the newest Kubernetes that the schemas know, with no field that it does not have."""
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_probes_ask_where_the_server_answers() -> None:
    """Kubernetes and Docker ask for the paths and at the port that `serve` answers."""
    (worker,) = (each for pod in pods() for each in pod["containers"] if "ports" in each)
    assert worker["ports"] == [{"name": "http", "containerPort": 8000}]
    probes = {name: worker[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {name: (each["path"], each["port"]) for name, each in probes.items()} == {
        "startupProbe": (ALIVE, "http"),
        "livenessProbe": (ALIVE, "http"),
        "readinessProbe": (READY, "http"),
    }
    (check,) = instructions("HEALTHCHECK")
    assert f"http://127.0.0.1:8000{READY}" in check
    assert json.loads(check[check.index("[") :])[:2] == ["python", "-c"]
    assert instructions("EXPOSE") == ["8000"]


def test_a_worker_may_drain_before_it_is_killed() -> None:
    """What stops a worker waits longer than the worker's drain takes."""
    (deployment,) = (each for each in MANIFESTS if each["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (worker,) = pod["containers"]
    before = worker["lifecycle"]["preStop"]["sleep"]["seconds"]
    granted = [
        (worker["command"], pod["terminationGracePeriodSeconds"] - before),
        *((each["command"], each["stop_grace_period"]) for each in COMPOSE["services"].values() if "cap_drop" in each),
        (["mcp-sessions", *shlex.split(unit()["ExecStart"])[1:]], unit()["TimeoutStopSec"]),
    ]
    assert len(granted) == 4
    for words, patience in granted:
        drain = duration_of(parsed(words)[1]["drain_timeout"], unit_required=True)
        allowed = duration_of(str(patience), unit_required=False)
        assert drain is not None
        assert allowed is not None
        assert allowed > drain


def test_nothing_runs_as_root() -> None:
    """The image has a user of its own, which Kubernetes checks by number, on a file system that is read-only."""
    (user,) = instructions("USER")
    uid, gid = map(int, user.split(":"))
    assert uid > 0
    assert DOCKERFILE.index("\nUSER ") < DOCKERFILE.index("\nCMD ")
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"]
        assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (uid, gid)
        for each in pod["containers"]:
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
    assert all(each["read_only"] for each in COMPOSE["services"].values() if "cap_drop" in each)


def test_selectors_meet_the_workers() -> None:
    """The service, the deployment and the disruption budget mean the same pods, and a rollout keeps them all up."""
    by_kind = {each["kind"]: each["spec"] for each in MANIFESTS}
    labels = by_kind["Deployment"]["template"]["metadata"]["labels"]
    assert by_kind["Service"]["selector"] == labels
    assert by_kind["PodDisruptionBudget"]["selector"]["matchLabels"] == labels
    assert by_kind["Deployment"]["selector"]["matchLabels"] == labels
    assert by_kind["Deployment"]["replicas"] > by_kind["PodDisruptionBudget"]["maxUnavailable"]
    assert by_kind["Deployment"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_the_image_is_built_from_what_it_copies(tmp_path: Path) -> None:
    """The files that the Dockerfile copies pass .dockerignore, and build the wheel of this checkout."""
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    context = tmp_path / "context"
    context.mkdir()
    copied = [each.split() for each in instructions("COPY") if not each.startswith("--from")]
    for *names, _ in copied:
        for name in names:
            assert any(fnmatch(name, each) for each in allowed), name
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
            copy(ROOT / name, context / name)
    assert {name for *names, _ in copied for name in names} == set(allowed)
    ours, theirs = (
        {each.filename: each.CRC for each in zipfile.ZipFile(build(source, tmp_path / name, "wheel")).infolist()}
        for name, source in (("ours", ROOT), ("theirs", context))
    )
    assert theirs == ours


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_commands_of_the_image_install_it(tmp_path: Path) -> None:
    """The commands that the Dockerfile builds by, run in a folder of this machine, make a command that works."""
    target = tmp_path / "mcp-sessions"
    builds = [each for each in instructions("RUN") if "/opt/mcp-sessions" in each]
    assert len(builds) == 2
    for each in builds:
        words = shlex.split(each.replace("/opt/mcp-sessions", str(target)))
        subprocess.run(["env", *words] if words[0] != "python" else [sys.executable, *words[1:]], cwd=ROOT, check=True)
    for words in (["--version"], ["serve", "--help"]):
        subprocess.run([target / "bin" / "mcp-sessions", *words], check=True, cwd=tmp_path, timeout=60)


def location(settings: str) -> str:
    """Return the part of an nginx configuration that is about the endpoint."""
    found = re.search(r"location /mcp \{.*?\}", settings, re.DOTALL)
    assert found
    return found[0]


def test_nginx_is_the_one_of_the_page(tmp_path: Path) -> None:
    """The proxy of compose does what the tested configuration of the page does, before the workers that there are."""
    settings = (DEPLOY / "nginx.conf").read_text()
    (page,) = Page("docs/how-to/deploy.md").blocks("nginx")
    assert location(settings) == location(page)
    workers = re.findall(r"server (\S+):8000 max_fails=0;", settings)
    assert workers == [name for name, each in COMPOSE["services"].items() if "cap_drop" in each]
    if (program := nginx_program()) is None:
        pytest.skip("nginx is not installed: its own check of deploy/nginx.conf is left out")
    for name in workers:
        settings = settings.replace(name, "127.0.0.1")
    settings = settings.replace("listen 80;", "listen 127.0.0.1:8080;")
    (tmp_path / "nginx.conf").write_text(f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{ access_log off;\n{settings}\n}}")
    command = (program, "-t", "-q", "-p", f"{tmp_path}/", "-c", "nginx.conf", "-e", "stderr")
    checked = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert checked.returncode == 0, checked.stderr


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """The check of systemd itself finds nothing wrong with the unit, nor much that it is exposed to."""
    if (program := shutil.which("systemd-analyze")) is None:
        pytest.skip("systemd-analyze is not installed: its check of the unit is left out")
    command = Path(sys.executable).with_name("mcp-sessions")
    file = tmp_path / UNIT.name
    file.write_text(UNIT.read_text().replace("/opt/mcp-sessions/bin/mcp-sessions", str(command)))
    for check in (("verify",), ("security", "--offline=yes", "--threshold=30", "--no-pager")):
        result = subprocess.run(
            [program, *check, file], capture_output=True, text=True, timeout=30, check=False, env={"PATH": os.defpath}
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert check != ("verify",) or result.stderr == ""

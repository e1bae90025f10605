"""The package, the workflows that publish it, and the samples in packaging/ for proxies and containers fit clinvk.

nginx itself checks its sample. Both proxies were tried by hand in front of a server that streams.
"""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import yaml

from clinvk import __version__
from clinvk.backends.registry import BACKENDS
from clinvk.cli.parse import arguments
from clinvk.cli.parse.commands import COMMANDS, FIRST_WORDS, OVERVIEW, flags_shown, help_of
from clinvk.config.load import load
from clinvk.config.model import ServerSettings

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"
DEPLOY = (ROOT / "docs" / "deploy.md").read_text()
DEFAULTS = ServerSettings()
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def seconds(text: str) -> int:
    found = re.fullmatch(r"(\d+)([smh]?)", text)
    assert found, text
    return int(found[1]) * _UNITS[found[2]]


def value(name: str, directive: str) -> str:
    """Return the value of the only directive of this name in a sample."""
    (found,) = re.findall(rf"^\s*{directive} ([^\s;]+)", (PACKAGING / name).read_text(), re.MULTILINE)
    return found


def test_nginx_accepts_the_sample(tmp_path: Path) -> None:
    nginx = shutil.which("nginx", path=f"{ROOT}/.nginx/usr/sbin:/usr/sbin:{os.environ['PATH']}")
    if not nginx:
        pytest.skip("needs nginx (make nginx)")
    certificate = ("openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=a", "-batch")
    subprocess.run(
        [*certificate, "-keyout", "privkey.pem", "-out", "fullchain.pem"], cwd=tmp_path, check=True, capture_output=True
    )
    sample = (PACKAGING / "nginx.conf").read_text()
    for folder in ("/etc/letsencrypt/live/clinvk.example.com", "/var/log/nginx"):
        assert folder in sample
        sample = sample.replace(folder, str(tmp_path))
    sample = re.sub(r"listen (\d+)", r"listen 127.0.0.1:10\1", sample)  # nginx binds the ports
    sample = re.sub(r"listen \[::\]:(\d+)", r"listen 127.0.0.2:10\1", sample)
    temporary = "".join(
        f"{kind}_temp_path {tmp_path}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    settings = tmp_path / "nginx.conf"
    settings.write_text(f"pid {tmp_path}/pid; events {{}} http {{ access_log off; {temporary}\n{sample} }}")
    done = subprocess.run(
        [nginx, "-t", "-q", "-e", "stderr", "-p", str(tmp_path), "-c", str(settings)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr


@pytest.mark.parametrize(
    ("name", "wait", "keep"),
    [("nginx.conf", "proxy_read_timeout", "keepalive_timeout"), ("Caddyfile", "read_timeout", "keepalive")],
)
def test_proxy_waits_longer_than_clinvk_and_closes_idle_connections_earlier(name: str, wait: str, keep: str) -> None:
    longest = max(DEFAULTS.request_timeout_secs, DEFAULTS.no_progress_timeout_secs)
    assert seconds(value(name, wait)) > longest
    assert seconds(value(name, keep)) < DEFAULTS.idle_timeout_secs


def test_proxies_have_the_body_limit_of_clinvk() -> None:
    assert value("nginx.conf", "client_max_body_size") == f"{DEFAULTS.max_request_body_bytes // 2**20}m"
    assert value("Caddyfile", "max_size") == str(DEFAULTS.max_request_body_bytes)


def steps() -> Iterator[tuple[str, str]]:
    """Return the instructions of the Dockerfile with their arguments."""
    text = re.sub(r"^#.*\n", "", (PACKAGING / "Dockerfile").read_text(), flags=re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, rest = line.partition(" ")
            yield word, rest.strip()


def last(word: str) -> str:
    """Return the latest instruction of a kind: that of the image."""
    return [rest for kind, rest in steps() if kind == word][-1]


def test_image_does_not_run_as_root_and_starts_with_tini() -> None:
    assert last("USER") == "clinvk"
    assert [word for word, _ in steps()][-5:] == ["VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"]
    assert msgspec.json.decode(last("ENTRYPOINT")) == ["tini", "--", "clinvk"]
    assert arguments.read(msgspec.json.decode(last("CMD"), type=list[str])).command == "serve"
    assert re.search(r"\btini\b", [rest for word, rest in steps() if word == "RUN"][-2])


def test_image_environment_variables_are_valid_settings() -> None:
    named = dict(re.findall(r"(\w+)=(\S+)", last("ENV")))
    settings = load(None, {**named, "HOME": "/nowhere"}, {}, BACKENDS)
    assert (settings.server.host, settings.server.default_workdir) == ("0.0.0.0", "/work")
    assert str(settings.server.port) == last("EXPOSE")


def test_image_installs_every_agent_by_default() -> None:
    given = next(rest for word, rest in steps() if word == "ARG" and rest.startswith("AGENTS="))
    wanted = {backend.install.rpartition(" ")[2] for backend in BACKENDS.values()}
    assert set(shlex.split(given.partition("=")[2])[0].split()) == wanted


def copied() -> set[str]:
    """Return the files and folders of the repository that the Dockerfile copies."""
    return {name for word, rest in steps() if word == "COPY" and "--from" not in rest for name in rest.split()[:-1]}


def test_dockerfile_copies_only_existing_files_that_are_not_ignored() -> None:
    taken = {
        line[1:] for line in (PACKAGING / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")
    }
    assert copied() == taken
    assert all((ROOT / name).exists() for name in copied())


COMPOSE = yaml.safe_load((PACKAGING / "compose.yaml").read_text())
SERVICE = COMPOSE["services"]["clinvk"]


def test_container_grace_period_exceeds_that_of_clinvk() -> None:
    assert seconds(SERVICE["stop_grace_period"]) >= DEFAULTS.shutdown_grace_secs + 10


def test_container_listens_on_loopback_and_requires_an_api_key() -> None:
    assert SERVICE["ports"] == [f"127.0.0.1:8080:{last('EXPOSE')}"]
    assert SERVICE["environment"]["CLINVK_API_KEYS"].startswith("${CLINVK_API_KEYS:?")
    assert SERVICE["environment"]["CLINVK_SERVER__ALLOWED_HOSTS"].startswith("clinvk,${CLINVK_DOMAIN:-")
    assert SERVICE["cap_drop"] == ["ALL"]
    assert SERVICE["security_opt"] == ["no-new-privileges:true"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DEPLOY, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Return the arguments of each `clinvk` that the page calls."""
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    found = [re.search(r"(?:^|\bsudo |\bclinvk )clinvk ((?:keys|doctor|serve)\b.*)", line) for line in lines]
    return [shlex.split(re.split(r" [|>] ", match[1])[0]) for match in found if match]


def test_commands_on_the_deployment_page_parse() -> None:
    assert [words[0] for words in commands()] == ["doctor", "keys", "doctor"]
    for words in commands():
        assert arguments.read(words).command


def test_settings_on_the_deployment_page_are_valid(tmp_path: Path) -> None:
    for text in blocks("yaml"):
        (tmp_path / "config.yaml").write_text(text)
        load(str(tmp_path / "config.yaml"), {"HOME": str(tmp_path)}, {}, BACKENDS)
    assert blocks("yaml")


@pytest.mark.parametrize("name", ["nginx.conf", "Caddyfile"])
def test_settings_required_by_a_sample_are_valid(name: str, tmp_path: Path) -> None:
    (asked,) = re.findall(r"^#   (server: \{.*\})$", (PACKAGING / name).read_text(), re.MULTILINE)
    (tmp_path / "config.yaml").write_text(asked)
    settings = load(str(tmp_path / "config.yaml"), {"HOME": str(tmp_path)}, {}, BACKENDS)
    assert settings.server.allowed_hosts == ("clinvk.example.com",)
    assert settings.server.trusted_proxies == ("127.0.0.1",)


# Man pages


def test_man_pages_have_every_command_flag_and_example() -> None:
    pages: dict[str, str] = runpy.run_path(str(PACKAGING / "man_pages.py"))["pages"]()
    assert pages.keys() == {"clinvk.1", *(f"clinvk-{name}.1" for name in FIRST_WORDS)}
    for name in ("", *COMMANDS):
        page = pages[f"clinvk-{name.split()[0]}.1" if name else "clinvk.1"].replace("\\-", "-")
        missing = [flag.names[0] for flag in flags_shown(name) if flag.help and f"\\fB{flag.names[0]}\\fR" not in page]
        examples = help_of(name or OVERVIEW).examples.replace("\\", "\\e").splitlines()[1:]
        assert missing + [line for line in examples if f"\n{line.removeprefix('  ')}\n" not in page] == [], name


def test_man_pages_have_no_accidental_requests() -> None:
    for name, page in runpy.run_path(str(PACKAGING / "man_pages.py"))["pages"]().items():
        requests = set(re.findall(r"^[.']\s*(\w*)", page, re.MULTILINE))
        assert requests <= {"TH", "SH", "SS", "TP", "PP", "nf", "fi", "nh"}, name
        assert page.count("\n.nf\n") == page.count("\n.fi\n")


# The examples of a cluster

CLUSTER = ROOT / "examples" / "cluster"
SHARED = {"CLINVK_CLUSTER__URL", "CLINVK_CLUSTER_SECRET", "CLINVK_STORE__URL"}


def test_compose_file_of_a_cluster_shares_a_database_and_no_home() -> None:
    services = yaml.safe_load((CLUSTER / "compose.yaml").read_text())["services"]
    own = {name: each for name, each in services.items() if each["image"] == "clinvk-cluster"}
    assert {"nats", "postgres"} == services.keys() - own.keys()
    homes = [volume for each in own.values() for volume in each.get("volumes", ()) if "/home/" in volume]
    assert len(set(homes)) == len(homes) == 2
    assert all(home.split(":")[1] in msgspec.json.decode(last("VOLUME")) for home in homes)
    for each in own.values():
        assert each["environment"].keys() >= SHARED
        command = arguments.read(each["command"]).command
        assert each.get("healthcheck") == (None if command == "serve" else {"disable": True})


@pytest.mark.parametrize("name", ["clinvk-gateway.service", "clinvk-worker.service"])
def test_units_of_a_cluster_read_addresses_and_secret_from_a_file(name: str) -> None:
    unit = (CLUSTER / name).read_text()
    (file,) = re.findall(r"^EnvironmentFile=(.+)$", unit, re.MULTILINE)
    assert all(variable in unit for variable in SHARED)
    page = (ROOT / "docs" / "cluster.md").read_text()
    written = page.partition(f"{file} <<END")[2].partition("\nEND")[0]
    assert {line.partition("=")[0] for line in written.splitlines()[1:]} == SHARED


# The package, and the workflows

WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").iterdir()}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built of the files that the Dockerfile copies."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in copied():
        source, target = ROOT / name, folder / name
        target.parent.mkdir(exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel"]
    subprocess.run(build, cwd=folder, check=True, capture_output=True)
    [file] = (folder / "dist").iterdir()
    return zipfile.ZipFile(file)


def test_wheel_has_the_files_beside_the_code(wheel: zipfile.ZipFile) -> None:
    names = {*wheel.namelist()}
    assert names >= {
        f"clinvk/{path.relative_to(ROOT / 'src' / 'clinvk')}"
        for path in (ROOT / "src" / "clinvk").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "clinvk/py.typed" in names
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]


def test_links_in_the_description_of_the_package_are_absolute(wheel: zipfile.ZipFile) -> None:
    description = wheel.read(f"clinvk-{__version__}.dist-info/METADATA").decode()
    links = re.findall(r"\]\(([^)\s]+)\)", description)
    assert f"{PROJECT['urls']['Homepage']}/blob/main/docs/install.md" in links
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_address_of_the_project_is_in_few_places() -> None:
    assert {*PROJECT["urls"]} >= {"Homepage", "Documentation", "Changelog", "Issues"}
    address = PROJECT["urls"]["Homepage"]
    listed = subprocess.run(["git", "grep", "-lF", address], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {*listed.stdout.split()} <= {"pyproject.toml", "README.md", "src/clinvk/cli/parse/commands.py"}


def test_workflow_tests_each_supported_python() -> None:
    tested = WORKFLOWS["ci"]["jobs"]["linux"]["strategy"]["matrix"]["python"]
    assert [f"Programming Language :: Python :: {version}" for version in tested] == [
        each for each in PROJECT["classifiers"] if re.search(r":: 3\.\d", each)
    ]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow_pins_its_actions_and_has_few_rights(name: str) -> None:
    steps = [step for job in WORKFLOWS[name]["jobs"].values() for step in job.get("steps", ())]
    assert all(
        re.search(r"@v\d[\d.]*$|@[0-9a-f]{40}$|^docker://\S+:\d[\d.]+$", step["uses"])
        for step in steps
        if "uses" in step
    )
    assert WORKFLOWS[name]["permissions"] == {"contents": "read"}
    writing = {
        job: right
        for job, each in WORKFLOWS[name]["jobs"].items()
        for right, access in each.get("permissions", {}).items()
        if access == "write"
    }
    assert writing.keys() == ({"build", "pypi", "github"} if name == "release" else set())

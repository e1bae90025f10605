"""The commands in README.md and docs/ that install clinvk work as they stand, in a clone, in a fresh environment.

`make test` compares the commands with pyproject.toml and the files of the repository; `make test-slow` runs them.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from clinvk import __version__

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TOOL = re.compile(r"(?:sudo )?((?:\S*/)?(?:pip|pipx|uv|uvx) (?:tool )?(?:install|inject|--from)\b[^`#|]*)")
OF_REGISTRIES = re.compile(r"(PIP|UV|SSL|REQUESTS|CURL)_|.*_proxy$", re.IGNORECASE)
"""How this machine reaches registries."""


def commands() -> list[str]:
    """Return the commands that install clinvk, each once, without `sudo`."""
    found: dict[str, None] = {}
    for page in PAGES:
        for line in page.read_text().splitlines():
            found |= {match[1].strip(): None for match in TOOL.finditer(line)}
    return [command for command in found if sources(command)]  # others install other packages


def sources(command: str) -> list[str]:
    """Return what a command installs: paths, or clinvk by name; with extras in brackets."""
    words = shlex.split(command)
    return [word for word in words if re.match(r"\.|dist/|/|clinvk\b", word) and word != words[0]]


def test_pages_have_the_commands_of_each_installer() -> None:
    installers = {Path(shlex.split(command)[0]).name for command in commands()}
    assert installers >= {"pip", "pipx", "uv"}
    assert {"pip install .", "pipx install .", "uv tool install ."} <= {*commands()}


@pytest.mark.parametrize("command", commands())
def test_installed_path_and_extra_exist(command: str) -> None:
    assert sources(command), command
    for source in sources(command):
        path, _, extras = source.partition("[")
        in_clone = {"./clinvk": ".", "dist/clinvk-*.whl": ".", "clinvk": "."}.get(path, path)
        assert (ROOT / in_clone).exists()
        known = {"test"} if "-e" in shlex.split(command) else PROJECT["optional-dependencies"].keys()
        assert {*extras.rstrip("]").split(",")} <= {*known, ""}


def test_license_files_exist() -> None:
    assert all([*ROOT.glob(pattern)] for pattern in PROJECT["license-files"])


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the commit, with a wheel in `dist`, and beside it the clone `clinvk`, as a workflow has it."""
    folder = tmp_path_factory.mktemp("install") / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel"]
    subprocess.run(build, cwd=folder, check=True, capture_output=True)
    (folder / "clinvk").symlink_to(folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("command", [*commands(), "pip install 'clinvk[otel]'", "uv tool install clinvk"])
def test_command_installs_clinvk_in_a_fresh_environment(command: str, clone: Path, tmp_path: Path) -> None:
    programs = tmp_path / "venv" / "bin"
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "--quiet", "--seed", "--python", sys.executable, tmp_path / "venv"], check=True)
    (programs / "uv").symlink_to(uv)
    env = {  # the wheel in `dist` is clinvk by name, before clinvk is published
        **{name: value for name, value in os.environ.items() if OF_REGISTRIES.match(name)},
        "HOME": str(tmp_path),
        "PATH": os.pathsep.join([str(programs), str(tmp_path / ".local" / "bin"), "/usr/bin", "/bin"]),
        "LANG": "C.UTF-8",
        "UV_PYTHON": sys.executable,
        "UV_CACHE_DIR": str(clone.parent / "cache"),
        "PIP_CACHE_DIR": str(clone.parent / "cache-of-pip"),
        "PIP_FIND_LINKS": f"{os.environ.get('PIP_FIND_LINKS', '')} {clone}/dist",
        "UV_FIND_LINKS": f"{clone}/dist",
        "PIPX_DEFAULT_PYTHON": sys.executable,
    }

    def run(line: str, folder: Path = clone) -> str:
        done = subprocess.run(["bash", "-euc", line], cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    if command.startswith("pipx"):
        run("pip install --quiet pipx")
    if "inject" in command:
        run("pipx install .")
    folder = clone
    if command.endswith("-e '.[test]'"):  # in the template of a plug-in
        run("pip install --quiet .")
        folder = shutil.copytree(clone / "examples" / "plugins" / "json_lines", tmp_path / "plugin")
    elif "examples/plugins" in command and command.startswith("pip "):
        run("pip install --quiet .")
    run(re.sub(r"^/opt/clinvk/bin/", "", command), folder)
    assert run("clinvk version") == f"clinvk {__version__}\n"
    assert '"tools"' in run("""echo '{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}' | clinvk mcp""")
    if "plugin" in command:
        assert "parrot" in run("clinvk backends")

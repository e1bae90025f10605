"""Properties of the project: public names, layers and lock files."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import clinvk
from clinvk.backends.registry import BACKENDS

ROOT = Path(__file__).parents[2]
LOCKS = (
    ROOT / "tests" / "requirements.txt",
    ROOT / "examples" / "requirements-demo.txt",
    *(ROOT / "packaging" / f"requirements{name}.txt" for name in ("", "-build", "-dist")),
    ROOT / "packaging" / "site" / "requirements.txt",
    ROOT / "tests" / "conformance" / "requirements.txt",
    ROOT / "tests" / "agents" / "clis" / "package-lock.json",
)
NODE_LOCKS = [
    ROOT / "tests" / folder / "package-lock.json" for folder in ("agents/clis", "agents/clients", "conformance")
]
PUBLIC = {
    *("__version__", "ApprovalMode", "ClinvkError", "Event", "Progress", "RunFailed", "RunFinished", "RunRequest"),
    *(
        "RunResult",
        "RunStarted",
        "SandboxMode",
        "TextDelta",
        "ThinkingDelta",
        "ToolCall",
        "ToolResult",
        "Usage",
        "collect",
    ),
}


def test_all_lists_the_public_names() -> None:
    assert sorted(clinvk.__all__) == sorted(PUBLIC)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_name_can_be_imported(name: str) -> None:
    assert getattr(clinvk, name) is not None


def test_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = clinvk.nothing


def test_importing_clinvk_imports_nothing_else() -> None:
    program = "import sys; before = set(sys.modules); import clinvk; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["clinvk"]


def test_backends_import_the_protocols_of_their_agents_with_the_first_prompt() -> None:
    """An idle server takes less memory."""
    program = "import sys; from clinvk.backends.registry import BACKENDS; [*BACKENDS.values()]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    protocols = {f"clinvk.backends.{name}" for name in ("acp_wire", "claude.wire", "codex.wire", "gemini.acp")}
    assert {*done.stdout.split()}.isdisjoint(protocols | {"difflib", "html"})


@pytest.mark.parametrize(
    "path",
    [path for path in (ROOT / "src").rglob("*.py") if "backends" not in path.parts],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_code_outside_backends_compares_no_backend_names(path: Path) -> None:
    compared = [
        value.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare | ast.MatchValue)
        for value in ast.walk(node)
        if isinstance(value, ast.Constant)
    ]
    assert not set(BACKENDS).intersection(value for value in compared if isinstance(value, str))


def test_only_the_entry_of_the_command_line_imports_the_registered_backends() -> None:
    sources = {path: path.read_text() for path in (ROOT / "src").rglob("*.py") if path.name != "registry.py"}
    assert [path.name for path, source in sources.items() if "import BACKENDS" in source] == ["entry.py"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_lock_file_contains_no_download_urls(lock: Path) -> None:
    assert "://" not in lock.read_text()
    assert '"resolved"' not in lock.read_text()


@pytest.mark.parametrize("lock", [lock for lock in LOCKS if lock.suffix == ".txt"], ids=lambda path: path.name)
def test_each_locked_requirement_has_hashes(lock: Path) -> None:
    entries = re.split(r"\n(?=[a-z])", re.sub(r"(?m)^ *#.*\n", "", lock.read_text()).strip())
    assert len(entries) == len(re.findall("==[0-9]", lock.read_text())) > 0
    pinned = re.compile(r"[\w.-]+(?:\[[\w, .-]+\])?==\S+.*\\\n +--hash=sha256:")
    assert not [entry for entry in entries if not pinned.match(entry)]


@pytest.mark.parametrize("lock", NODE_LOCKS, ids=lambda path: path.parent.name)
def test_locked_node_packages_have_checksums_and_exact_versions(lock: Path) -> None:
    package = json.loads((lock.with_name("package.json")).read_text())
    wanted = package["dependencies"] | package.get("devDependencies", {})
    assert '"resolved"' not in lock.read_text()
    packages = json.loads(lock.read_text())["packages"]
    del packages[""]
    assert not [name for name, package in packages.items() if "integrity" not in package]
    assert {name: packages[f"node_modules/{name}"]["version"] for name in wanted} == wanted


def test_ci_runs_the_whole_test_command() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "exec make test"

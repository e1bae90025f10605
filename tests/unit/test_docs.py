"""The pages name every endpoint, setting and choice, and everything that the pages name exists.

`tests/acceptance/test_docs.py` runs the samples.
"""

import ast
import itertools
import re
import socket
from pathlib import Path

import msgspec
import pytest

from clinvk import __version__
from clinvk.api.openapi.document import document
from clinvk.api.server import server
from clinvk.backends.presets import PRESETS
from clinvk.backends.registry import BACKENDS
from clinvk.config.model import ServerSettings
from clinvk.config.setting_values import all_keys
from clinvk.types.choices import APPROVAL_MODES, SANDBOX_MODES

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
README = (REPOSITORY / "README.md").read_text()
SERVER = (REPOSITORY / "docs" / "server.md").read_text()
CONFIGURATION = (REPOSITORY / "docs" / "configuration.md").read_text()

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")

PATH = re.compile(r"`((?:[\w<][\w.<>-]*/)+[\w.-]*|\w[\w.-]*\.(?:py|md|txt|toml|yaml))`")
"""A path in backticks: with a slash, or with the suffix of a file."""


class _Api(msgspec.Struct):
    paths: dict[str, dict[str, object]]


def endpoints() -> list[str]:
    paths = msgspec.json.decode(document(BACKENDS), type=_Api).paths
    return [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]


def anchors(page: Path) -> set[str]:
    """Return the link targets of the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def links() -> list[tuple[Path, str]]:
    found = [[(page, target) for target in LINK.findall(FENCE.sub("", page.read_text()))] for page in PAGES]
    return [*itertools.chain.from_iterable(found)]


@pytest.mark.parametrize(("page", "target"), links(), ids=lambda part: str(part).rpartition("/")[2])
def test_links_resolve_within_the_repository(page: Path, target: str) -> None:
    file, _, anchor = target.partition("#")
    there = (page.parent / file).resolve() if file else page
    assert there.is_relative_to(REPOSITORY)
    assert there.exists()
    assert not anchor or anchor in anchors(there)


def test_paths_in_the_contributing_guide_exist() -> None:
    """A path begins at the repository or at the package; a bare file name is next to a path of the same line."""
    roots, missing = [REPOSITORY, REPOSITORY / "src" / "clinvk"], list[str]()
    for line in (REPOSITORY / "CONTRIBUTING.md").read_text().splitlines():
        known = list(roots)
        for path in PATH.findall(line):
            folder, slash, name = path.replace("<agent>", "*").rpartition("/")
            inside = [found for root in roots for found in root.glob(folder) if found.is_dir()] if slash else known
            known += inside
            if not any(not name or any(place.glob(name)) for place in inside):
                missing.append(path)
    assert not missing


def test_every_page_is_reachable_from_the_readme() -> None:
    reached, new = set[Path](), {REPOSITORY / "README.md"}
    while new:
        reached |= new
        new = {(page.parent / target.partition("#")[0]).resolve() for page, target in links() if page in new} - reached
    assert set(PAGES) - reached == set()


@pytest.mark.parametrize("endpoint", endpoints())
def test_server_page_lists_each_endpoint(endpoint: str) -> None:
    assert f"| `{endpoint}` |" in SERVER


def test_server_page_lists_only_existing_endpoints() -> None:
    assert set(re.findall(r"^\| `([A-Z]+ /\S*)` \|", SERVER, re.MULTILINE)) == set(endpoints())


@pytest.mark.parametrize("name", BACKENDS)
def test_readme_has_the_install_command_of_each_agent(name: str) -> None:
    assert f"| `{name}` | `{BACKENDS[name].install}` |" in README


def test_readme_explains_each_approval_and_sandbox_mode() -> None:
    for words, title in ((APPROVAL_MODES, "approval_mode"), (SANDBOX_MODES, "sandbox_mode")):
        table = README.partition(f"| `{title}` | |\n|---|---|\n")[2].partition("\n\n")[0]
        assert re.findall(r"^\| `(\S+)` \|", table, re.MULTILINE) == [*words]


def test_readme_names_the_mode_that_codex_refuses() -> None:
    refusing = {
        (name, word)
        for name, backend in BACKENDS.items()
        for word in (*APPROVAL_MODES, *SANDBOX_MODES)
        if word not in (*backend.capabilities.approval_modes, *backend.capabilities.sandbox_modes)
    }
    assert refusing == {("codex", "always")}
    assert "(Codex cannot do this and refuses the mode)" in README


def marked(mark: str) -> set[str]:
    """Return the keys that docs/configuration.md marks with this text."""
    return set(re.findall(rf"^\| `([a-z_.<>]+)` \|[^|]*\| \*{mark}\*[;:]", CONFIGURATION, re.MULTILINE))


def attributes() -> set[str]:
    """Return the names of all attributes that the source reads."""
    sources = (REPOSITORY / "src").rglob("*.py")
    nodes = itertools.chain.from_iterable(ast.walk(ast.parse(path.read_bytes())) for path in sources)
    return {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}


def test_configuration_page_marks_each_key_without_effect() -> None:
    """`max_tokens` is read, to be carried by a request to its backend; none has a use for it."""
    keys = {".".join(keys) for keys, _ in all_keys(["<name>"])}
    read = attributes()
    unread = {key for key in keys if key.rpartition(".")[2] not in read}
    assert marked("no effect") == unread | {"unified_flags.max_tokens"}
    backends = (REPOSITORY / "src" / "clinvk" / "backends").rglob("*.py")
    assert not [path for path in backends if "request.max_tokens" in path.read_text()]


def test_server_page_quotes_the_non_loopback_warning() -> None:
    warning = re.search(r"`(warning: 0\.0\.0\.0 [^`]*)`", SERVER)
    assert warning
    # Bound and not listening: nobody can connect.
    with socket.socket() as bound:
        bound.bind(("0.0.0.0", 0))
        assert " ".join(warning[1].split()) in str(server.startup(ServerSettings(host="0.0.0.0"), [bound]))


def test_changelog_has_the_current_version() -> None:
    changelog = (REPOSITORY / "CHANGELOG.md").read_text()
    assert re.search(rf"^## {re.escape(__version__)} \(\d{{4}}-\d\d-\d\d\)$", changelog, re.MULTILINE)


def test_acp_page_has_the_command_install_and_login_of_each_preset() -> None:
    page = (REPOSITORY / "docs" / "acp.md").read_text()
    for name, preset in PRESETS.items():
        install = preset.install if preset.install.startswith("see ") else f"`{preset.install}`"
        assert f"| `{name}` | `{' '.join(preset.argv)}` | {install} | `{preset.login}` |" in page

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
from clinvk.backends.registry import BACKENDS, PRESETS
from clinvk.cli.parse.commands import ALONE, COMMANDS, flags_shown
from clinvk.config.model import ServerSettings
from clinvk.config.setting_values import all_keys
from clinvk.types.choices import APPROVAL_MODES, SANDBOX_MODES

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
README = (REPOSITORY / "README.md").read_text()
AGENTS = (REPOSITORY / "docs" / "agents.md").read_text()
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


each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)

COMMAND = re.compile(r"(?:^|[|;&(] ?|\$ |exec )clinvk ([^|;&#>]*)")
OF_AGENTS = {
    *("--acp", "--betas", "--color", "--disable", "--disable-slash-commands", "--enable", "--json-schema"),
    *("--exclude-dynamic-system-prompt-sections", "--max-budget-usd", "--max-thinking-tokens", "--oss", "--profile"),
    *("--screen-reader", "--strict-config", "--thinking"),
}
"""Flags of agents that pages name."""

OF_OTHERS = {"--bind-fd", "--output", "--strict", "--flag"}
"""Flags of other programs, a flag of clinvk 0.1, and placeholders."""


def current(page: Path) -> str:
    """Return the text of a page; of the changelog, what is newer than the release before the last."""
    releases = 2 if page.stem == "CHANGELOG" else None
    return "\n## 0.".join(page.read_text().split("\n## 0.")[:releases])


def code(page: Path) -> list[str]:
    """Return the pieces of code in a page: each span in backticks, and each line of a sample."""
    text = current(page)
    lines = itertools.chain.from_iterable(sample.splitlines() for sample in FENCE.findall(text))
    return [*re.findall(r"`([^`\n]+)`", FENCE.sub("", text)), *lines]


@each_page
def test_settings_in_a_page_exist(page: Path) -> None:
    known = {".".join(keys) for keys, _ in all_keys(["<name>"])}
    sections = {key.partition(".")[0] for key in known}
    named = [span[1] for span in re.finditer(r"`([a-z_]+\.[\w.<>*-]+)", FENCE.sub("", current(page)))]
    for name in re.findall(r"CLINVK_[A-Z_]*__[A-Z_]+", current(page)):
        named.append(name.removeprefix("CLINVK_").lower().replace("__", "."))
    named = [re.sub(r"^backends\.[^.]+", "backends.<name>", key) for key in named if key.partition(".")[0] in sections]
    named = [re.sub(r"\.env\..*", ".env", key.removesuffix(".*")) for key in named]
    typing_mistake = {"server.prot"} if page.stem == "configuration" else set[str]()
    missing = {key for key in named if not any(f"{each}.".startswith(f"{key}.") for each in known)}
    assert missing == typing_mistake


@each_page
def test_endpoints_in_a_page_exist(page: Path) -> None:
    templates = {endpoint.split()[1] for endpoint in endpoints()}
    patterns = [re.sub(r"\{\w+\}", "[^/]+", template) for template in templates]
    bases = {"/api/v1", "/openai/v1", "/anthropic/v1", "/v1", "/mcp", "/anthropic", "/openai", "/gemini"}
    named = re.findall(
        r"(?<![\w.])/(?:api/v1|openai|anthropic|gemini|v1|health|metrics|mcp|openapi)[\w/{}.:-]*", current(page)
    )
    for path in {path.rstrip("/.") for path in named} - bases:
        aliases = [path, f"/openai{path}", f"/anthropic{path}"] if path.startswith("/v1/") else [path]
        assert any(re.fullmatch(pattern, alias) for pattern in patterns for alias in aliases), path


@each_page
def test_flags_in_a_page_exist(page: Path) -> None:
    all_flags = {name for command in ("", *COMMANDS) for flag in flags_shown(command) for name in flag.names}
    for piece in code(page):
        for arguments in COMMAND.findall(piece):
            words = re.sub(r"\"[^\"]*\"|'[^']*'", "TEXT", arguments).partition(" -- ")[0].replace("[flags]", "").split()
            names = [word for word in words if not word.startswith("-")]
            name = next((name for name in (" ".join(names[:2]), *names[:1]) if name in {*COMMANDS, *ALONE}), "")
            known = {flag for spec in flags_shown(ALONE.get(name, name)) for flag in spec.names}
            flags = {word.partition("=")[0] for word in words if re.match("--?[a-z]", word)}
            assert flags <= known | {"--help", "-h"}, piece
        if alone := re.match(r"--[a-z][a-z-]+", piece):
            assert alone[0] in all_flags | OF_AGENTS | OF_OTHERS, piece


@each_page
def test_files_in_a_page_exist(page: Path) -> None:
    named = re.findall(r"(?<![\w/.])((?:examples|packaging|docs|tests|bench)/[\w./-]*\w)", current(page))
    made_by_the_reader = {"packaging/.env", "packaging/agents.env"}
    assert [path for path in named if not (REPOSITORY / path).exists() and path not in made_by_the_reader] == []


def test_every_page_is_reachable_from_the_readme() -> None:
    reached, new = set[Path](), {REPOSITORY / "README.md"}
    while new:
        reached |= new
        new = {(page.parent / target.partition("#")[0]).resolve() for page, target in links() if page in new} - reached
    assert set(PAGES) - reached == set()


def test_console_page_shows_each_screenshot_that_the_script_takes() -> None:
    taken = re.findall(r'"([a-z-]+)": Screenshot\(', (REPOSITORY / "examples" / "screenshots.py").read_text())
    page = (REPOSITORY / "docs" / "console.md").read_text()
    assert sorted(re.findall(r"\(images/([a-z-]+)\.webp\)", page)) == sorted(taken) != []


def test_index_lists_every_other_page_with_a_description() -> None:
    """`make docs` makes the navigation of the site and llms.txt from these lines."""
    index = REPOSITORY / "docs" / "index.md"
    listed = re.findall(r"^- \[[^\]]+\]\((\S+)\): \w", index.read_text(), re.MULTILINE)
    assert sorted((index.parent / path).resolve() for path in listed) == [page for page in PAGES if page != index]


@pytest.mark.parametrize("endpoint", endpoints())
def test_server_page_lists_each_endpoint(endpoint: str) -> None:
    assert f"| `{endpoint}` |" in SERVER


def test_server_page_lists_only_existing_endpoints() -> None:
    assert set(re.findall(r"^\| `([A-Z]+ /\S*)` \|", SERVER, re.MULTILINE)) == set(endpoints())


def test_readme_counts_the_agents() -> None:
    assert ", ".join(("Claude Code", "Codex", f"Gemini CLI, {len(PRESETS)} more by name")) in " ".join(README.split())
    assert len(BACKENDS) == 3


@pytest.mark.parametrize("name", BACKENDS)
def test_readme_has_the_install_command_of_each_agent(name: str) -> None:
    assert f"| `{name}` | `{BACKENDS[name].install}` |" in README


def test_agents_page_explains_each_approval_and_sandbox_mode() -> None:
    for words, title in ((APPROVAL_MODES, "approval_mode"), (SANDBOX_MODES, "sandbox_mode")):
        table = AGENTS.partition(f"| `{title}` | |\n|---|---|\n")[2].partition("\n\n")[0]
        assert re.findall(r"^\| `(\S+)` \|", table, re.MULTILINE) == [*words]


def test_agents_page_names_the_mode_that_codex_refuses() -> None:
    refusing = {
        (name, word)
        for name, backend in BACKENDS.items()
        for word in (*APPROVAL_MODES, *SANDBOX_MODES)
        if word not in (*backend.capabilities.approval_modes, *backend.capabilities.sandbox_modes)
    }
    assert refusing == {("codex", "always")}
    assert "(Codex cannot do this and refuses the mode)" in AGENTS


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
    assert re.search(rf"^## {re.escape(__version__)} - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE)


def test_changelog_has_short_lines_under_the_usual_headings() -> None:
    """Each change of the newest release takes at most two lines."""
    release = current(REPOSITORY / "CHANGELOG.md").partition("\n## 0.")[2]
    assert re.findall(r"^### (.*)$", release, re.MULTILINE) == ["Added", "Changed", "Fixed", "Removed"]
    changes = [change for change in re.split(r"\n(?! )", release) if change.startswith("- ")]
    assert changes
    assert [change for change in changes if change.count("\n") > 1] == []


def test_acp_page_has_the_command_install_and_login_of_each_preset() -> None:
    page = (REPOSITORY / "docs" / "acp.md").read_text()
    for name, preset in PRESETS.items():
        install = preset.install if preset.install.startswith("see ") else f"`{preset.install}`"
        assert f"| `{name}` | `{' '.join(preset.argv)}` | {install} | `{preset.login}` |" in page

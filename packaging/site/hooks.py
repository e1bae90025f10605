# pyright: basic, reportMissingImports=false
# MkDocs is in another environment than the one that pyright reads.
"""Hooks of MkDocs: the navigation from docs/index.md, pages and links outside of docs/, and llms.txt.

https://www.mkdocs.org/user-guide/configuration/#hooks and https://llmstxt.org
"""

import os
import re
import shutil
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = {
    "README.md": "first-steps.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
    "CODE_OF_CONDUCT.md": "code-of-conduct.md",
}
"""The pages outside of docs/, with their names in the site."""

SHIM = "assets/javascripts/iframe-worker.js"
_REMOTE_SHIM = "https://unpkg.com/iframe-worker/shim"
"""The search in pages opened as files needs this script, which the plug-in `offline` loads from the network."""

_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)")
_ENTRY = re.compile(r"^- \[(.+?)\]\((\S+?)\): (.+)$", re.MULTILINE)


def on_config(config: MkDocsConfig) -> None:
    """Make the navigation."""
    config.site_description = PROJECT["description"]
    groups = [{title: [{name: _place(f"docs/{path}")} for name, path, _ in entries]} for title, entries in _groups()]
    config.nav = [{"Home": "index.md"}, *groups]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages outside of docs/."""
    for source, name in SOURCES.items():
        text = (ROOT / source).read_text().replace('="docs/', '="')
        files.append(File.generated(config, name, content=_with_links(text, source, name)))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace the links to files outside of docs/, and keep the page as Markdown for llms.txt."""
    name = page.file.src_uri
    text = markdown if name in SOURCES.values() else _with_links(markdown, f"docs/{name}", name)
    copy = Path(config.site_dir, name)
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text(text)
    return text


def on_post_build(config: MkDocsConfig) -> None:
    """Write llms.txt, make the pages independent of other hosts, and remove what no reader needs."""
    site = Path(config.site_dir)
    lines = [f"# {config.site_name}", "", f"> {config.site_description}"]
    for title, entries in _groups():
        lines += ["", f"## {title}", ""]
        lines += [f"- [{name}]({_place(f'docs/{path}')}): {about}" for name, path, about in entries]
    (site / "llms.txt").write_text("\n".join(lines) + "\n")
    shutil.copy(ROOT / "packaging/site/iframe-worker.js", site / SHIM)
    for page in site.rglob("*.html"):
        page.write_text(page.read_text().replace(_REMOTE_SHIM, os.path.relpath(site / SHIM, page.parent)))
    (site / "assets/LICENSE").write_text(distribution("mkdocs-material").read_text("licenses/LICENSE") or "")
    shutil.rmtree(site / "assets/javascripts/lunr")  # other languages
    for useless in (*site.rglob("*.map"), *site.glob("sitemap.xml*")):
        useless.unlink()


def _groups() -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Return the groups of docs/index.md: the title, and each page's title, path and description."""
    _, *groups = (ROOT / "docs" / "index.md").read_text().split("\n## ")
    return [(group.partition("\n")[0], _ENTRY.findall(group)) for group in groups]


def _place(path: str) -> str:
    """Return the place of a file of the repository in the site, or its address in the repository."""
    path = os.path.normpath(path)
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return SOURCES.get(path) or f"{PROJECT['urls']['Homepage']}/blob/main/{path}"


def _with_links(text: str, source: str, name: str) -> str:
    """Return the text of a file of the repository with its links as the page of that name in the site needs them."""

    def link(match: re.Match[str]) -> str:
        place = _place(os.path.join(os.path.dirname(source), match[0]))
        return place if "://" in place else os.path.relpath(place, os.path.dirname(name) or ".")

    return _LINK.sub(link, text)

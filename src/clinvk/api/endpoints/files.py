"""The endpoints that list files and directories, for forms that complete a path.

They list only what a prompt could use. A path may begin with `~`, the home of the server's user.
"""

import heapq
import os
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from itertools import islice
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request

from clinvk.api.endpoints.services import Services
from clinvk.config.setting_values import expand_home
from clinvk.runtime.worktrees.git import Git, branch_of
from clinvk.types.errors import ClinvkError

_GIT_TIMEOUT_S = 5.0
_WALK_TIMEOUT_S = 2.0
_MAX_WALKED = 20_000
_MAX_DIRECTORIES = 1_000


class FileListing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of a list of files."""

    directory: Annotated[str, Meta(description="Absolute path, or `~/...`.")]
    search: Annotated[str, Meta(max_length=200, description="Letters of the path in this order, ignoring case.")] = ""
    limit: Annotated[int, Meta(ge=1, le=200, description="Maximum number of files.")] = 50


class FileList(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a directory that match a search."""

    files: Annotated[list[str], Meta(description="Paths relative to the directory, best matches first.")]
    is_cut: Annotated[bool, Meta(description="Whether there may be more matches.")]


class DirectoryListing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of a list of directories."""

    path: Annotated[str, Meta(description="Absolute path, or `~/...`; by default where prompts work.")] = ""


class DirectoryList(msgspec.Struct, frozen=True, kw_only=True):
    """A directory and the directories in it."""

    path: Annotated[str, Meta(description="Absolute path without symbolic links.")]
    directories: Annotated[list[str], Meta(description="Names, sorted; without hidden directories.")]
    branch: Annotated[str | None, Meta(description="The git branch; null outside a repository or without a branch.")]
    is_cut: Annotated[bool, Meta(description=f"Whether there are more than {_MAX_DIRECTORIES:,} directories.")]


async def list_files(services: Services, request: Request, query: FileListing) -> FileList:
    """List the files of a directory that match a search. Of a git repository, ignored files are left out."""
    lookups = services.admission.lookups
    directory = await lookups.run(partial(_check, services, request, query.directory, "directory"))
    git = Git(services.runs.spawner, services.environ, directory)
    try:
        listed = await git.out("ls-files", "-co", "--exclude-standard", "-z", timeout_s=_GIT_TIMEOUT_S)
    except ClinvkError:  # no repository, or no git
        listed = None

    def matching() -> FileList:
        is_usable = cache(_usable(services, request))
        names, is_cut = _walk(directory, is_usable) if listed is None else (os.fsdecode(listed).split("\0"), False)
        files = [*islice(_best(directory, dict.fromkeys(names), query.search.casefold(), is_usable), query.limit + 1)]
        return FileList(files=files[: query.limit], is_cut=is_cut or len(files) > query.limit)

    return await lookups.run(matching)


async def list_directories(services: Services, request: Request, query: DirectoryListing) -> DirectoryList:
    """List the directories in a directory. Directories that a prompt could not use are left out."""

    def listed() -> DirectoryList:
        path = _check(services, request, query.path, "path")
        is_usable = _usable(services, request)
        with os.scandir(path) as entries:
            shown = (entry for entry in entries if not entry.name.startswith(".") and entry.name.isprintable())
            usable = (entry.name for entry in shown if entry.is_dir() and is_usable(entry.path))
            names = [*islice(usable, _MAX_DIRECTORIES + 1)]
        is_cut = len(names) > _MAX_DIRECTORIES
        return DirectoryList(
            path=path, directories=sorted(names[:_MAX_DIRECTORIES]), branch=branch_of(path), is_cut=is_cut
        )

    return await services.admission.lookups.run(listed)


def _check(services: Services, request: Request, path: str, field: str) -> str:
    return services.admission.check_directory(expand_home(path, services.environ), field, request.state.key_name)


def _usable(services: Services, request: Request) -> Callable[[str], bool]:
    """Return the function that says whether a prompt could use a directory. The function blocks."""
    return partial(services.admission.may_use, key_name=request.state.key_name)


def _walk(top: str, is_usable: Callable[[str], bool]) -> tuple[list[str], bool]:
    """Return the files below a directory, and whether the walk ended early. Links are not followed."""
    names: list[str] = []
    until = time.monotonic() + _WALK_TIMEOUT_S
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in sorted(folders) if name[0] != "." and is_usable(os.path.join(folder, name))]
        names += (os.path.relpath(os.path.join(folder, name), top) for name in sorted(files))
        if len(names) > _MAX_WALKED or time.monotonic() > until:
            return names, True
    return names, False


def _best(top: str, names: Iterable[str], search: str, is_usable: Callable[[str], bool]) -> Iterator[str]:
    """Yield the existing files that match, best first. The index of a repository may name files that are elsewhere."""
    shown = (name for name in names if name and name.isprintable())
    ranked = [(rank, len(name), name) for name in shown if (rank := _rank(name, search))]
    heapq.heapify(ranked)
    while ranked:
        name = heapq.heappop(ranked)[2]
        folder = os.path.dirname(os.path.join(top, name))
        if is_usable(folder) and os.path.lexists(os.path.join(top, name)):
            yield name


def _rank(name: str, search: str) -> int:
    """Return 1 if the search is in the file name, 2 if in the path, 3 if its letters are, in their order, or else 0."""
    path = name.casefold()
    if search in path:
        return 1 if search in os.path.basename(path) else 2
    letters = iter(path)
    return 3 if all(letter in letters for letter in search) else 0

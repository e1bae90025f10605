"""Which worktrees there are, and what was done in each. What nobody could want is removed on the way."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from clinvk.runtime.process.waiting import whole
from clinvk.runtime.worktrees.diff import Look
from clinvk.runtime.worktrees.folders import Place
from clinvk.runtime.worktrees.git import GitFailed
from clinvk.runtime.worktrees.trees import Trees, taken
from clinvk.runtime.worktrees.worktree_types import Listed, State
from clinvk.types.errors import ClinvkError
from clinvk.types.orchestration import ChangedFile

_LOOKS_AT_ONCE = 4

_Take = Callable[[Look], Awaitable[None]]


async def listed(trees: Trees, common: str | None) -> Sequence[Listed]:
    """Give the worktrees that are there, the oldest first; `common` is the only repository to tell of, None is all."""
    slots = asyncio.Semaphore(_LOOKS_AT_ONCE)

    async def one(own: str) -> Listed | None:
        async with slots:
            return await _listed(trees, own, common)

    ids = await asyncio.to_thread(trees.folders.ids)
    found = await asyncio.gather(*(one(own) for own in ids))
    return sorted((item for item in found if item), key=lambda item: (item.made_at, item.id))


async def shown(trees: Trees, own: str) -> tuple[Listed | None, BinaryIO | None]:
    """Give one, with its patch as a file that nobody else has; the caller closes it.

    As in a list, None stands for one that nobody could want.
    """
    patches: list[BinaryIO] = []
    held = ExitStack()

    async def take(look: Look) -> None:
        try:
            await look.write_patch()
        except GitFailed as exc:  # a file of several GB, for one, is too much for git
            look.warnings = (*look.warnings, f"there is no diff: {exc.message}")
        else:
            opening = asyncio.to_thread(lambda: patches.append(held.enter_context(_opened(look.patch))))
            await whole(opening, "opening a patch")

    with held:
        listed = await _listed(trees, own, None, take)
        if listed is None:
            return None, None
        held.pop_all()
    return listed, patches[0] if patches else None


def _opened(file: Path) -> BinaryIO:
    return file.open("rb")


async def _listed(trees: Trees, own: str, common: str | None, take: _Take | None = None) -> Listed | None:
    """Give one; None where it is of another repository, or where nobody could want it: then it is removed."""
    lock = await taken(lambda: trees.folders.share(own))
    try:
        place = await asyncio.to_thread(trees.folders.read, own)
        if place is None or common not in (None, place.facts.common):
            return None
        if lock is None or await asyncio.to_thread(trees.folders.is_used, own):
            return _item(place, "in use")
        item = await _seen(trees, place, take)
    finally:
        if lock is not None:
            os.close(lock)
    return item or await _swept(trees, place)


async def _seen(trees: Trees, place: Place, take: _Take | None = None) -> Listed | None:
    """Look at one that nobody uses; `take` gets the look while it lasts."""
    if not await asyncio.to_thread(trees.folders.is_ready, place.id):  # no agent was ever there, or it was removed
        return None
    is_there = await asyncio.to_thread(place.root.is_dir)
    try:
        async with trees.look(place) as look:
            files, is_changed = look.files, look.is_changed
            if take:
                await take(look)
            problem = "; ".join(look.warnings)
    except ClinvkError as exc:
        return _item(place, "broken", problem=exc.message) if is_there else None
    if is_changed:
        return _item(place, "changed", files, problem)
    is_kept = await asyncio.to_thread(trees.folders.is_kept, place.id)
    return _item(place, "unchanged", problem=problem) if is_kept else None


async def _swept(trees: Trees, place: Place) -> Listed | None:
    """Remove what the death of a clinvk left over, or a worktree that was removed with git.

    Gives it where it cannot be removed, or somebody has worked in it since it was looked at.
    """
    lock = await taken(lambda: trees.folders.hold(place.id))
    if lock is None:
        return None
    try:
        await asyncio.to_thread(trees.folders.keep, place.id)
        if await asyncio.to_thread(trees.folders.is_used, place.id):  # since it was looked at
            return _item(place, "in use")
        item = await _seen(trees, place)
        if item and item.state != "unchanged":  # by an agent that has come and gone since
            return item
        with_commits = await asyncio.to_thread(trees.folders.removal, place.id)
        await trees.remove(place, bool(with_commits))
    except (ClinvkError, OSError) as exc:
        return _item(place, "broken", problem=f"it cannot be removed: {exc}")
    finally:
        os.close(lock)
    return None


def _item(place: Place, state: State, files: tuple[ChangedFile, ...] = (), problem: str = "") -> Listed:
    return Listed(
        id=place.id,
        repository=place.facts.repository,
        path=str(place.workdir),
        branch=place.branch,
        base=place.facts.base,
        made_at=place.facts.made_at,
        state=state,
        files=files,
        problem=problem,
    )

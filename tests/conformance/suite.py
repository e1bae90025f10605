"""What a suite is, and what a run of a suite finds.

A module of `conformance.suites` is a suite by these names:

- the first line of its docstring: what the suite checks
- `VERSION`: the pinned version, from `locked`
- `run`: `async def run(folder: Path) -> Outcome`, or `async def run(site: Site) -> Outcome` below `@at_server`
- `EXPECTED`: each check that fails, with the reason why clinvk fails it; this list may only get shorter

A module with several suites has them in `SUITES` instead. Importing a suite imports nothing of `.conformance/`.
"""

import importlib
import pkgutil
import re
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Self, TypeAlias

import msgspec

from conformance import suites

TESTS = Path(__file__).parents[1]
STANDARDS, FRAMEWORKS, AGENTS = GROUPS = ("Standards", "SDKs and frameworks", "Coding agents as clients")
"""The headings of docs/compatibility.md."""


class Unavailable(Exception):
    """A suite cannot run, because a program of the system is missing. The message says how to install the program."""


@dataclass(frozen=True)
class Outcome:
    """The checks of a suite: how many passed, and the names of those that failed, by whether `EXPECTED` has them.

    Attributes:
        output: what the runner prints if a check failed that is not expected to.
    """

    passed: int
    failed: tuple[str, ...] = ()
    expected: tuple[str, ...] = ()
    output: str = ""

    @classmethod
    def of(
        cls, passed: Collection[str], failed: Collection[str], expected: Mapping[str, str], output: str = ""
    ) -> Self:
        """Return the outcome of named checks.

        An expected failure that does not occur is a failure. A suite without any check has failed.
        """
        if not passed and not failed:
            return cls(0, ("no check ran",), (), output)
        unexpected = [name for name in failed if name not in expected]
        stale = [f"{name} (remove from EXPECTED: does not fail)" for name in expected if name not in failed]
        return cls(len(passed), (*unexpected, *stale), tuple(name for name in failed if name in expected), output)


Run: TypeAlias = Callable[[Path], Coroutine[None, None, Outcome]]
"""A run of a suite in an empty folder."""


@dataclass(frozen=True)
class Suite:
    """A suite, as its module describes it.

    Attributes:
        group: the heading of the table in docs/compatibility.md.
    """

    name: str
    checks: str
    version: str
    run: Run
    expected: Mapping[str, str] = field(default_factory=dict[str, str])
    group: str = STANDARDS


class _Package(msgspec.Struct):
    dependencies: dict[str, str]
    devDependencies: dict[str, str] = {}


def load() -> list[Suite]:
    """Return all suites, in the order of the page."""
    names = [each.name for each in pkgutil.iter_modules(suites.__path__)]
    found = [
        suite for name in names for suite in _suites_of(name, importlib.import_module(f"conformance.suites.{name}"))
    ]
    return sorted(found, key=lambda suite: GROUPS.index(suite.group))


def _suites_of(name: str, module: ModuleType) -> Iterable[Suite]:
    if hasattr(module, "SUITES"):
        return module.SUITES
    checks = (module.__doc__ or "").partition("\n")[0].rstrip(".")
    return [Suite(name, checks, module.VERSION, module.run, getattr(module, "EXPECTED", {}))]


def locked(lock: str, package: str) -> str:
    """Return the version of a package in a lock: a path below `tests/` to `package.json` or a requirements file."""
    text = (TESTS / lock).read_text()
    if lock.endswith(".json"):
        packages = msgspec.json.decode(text, type=_Package)
        return (packages.dependencies | packages.devDependencies)[package]
    found = re.search(rf"^{re.escape(package)}(?:\[[^\]]*\])?==(\S+)", text, re.MULTILINE)
    assert found, f"no {package} in {lock}"
    return found[1]

"""Installed plug-ins without an installation: a folder for sys.path with the metadata of a package."""

from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples" / "plugins"
BROKEN = """\
from clinvk import plugin
from clinvk_shout import Shout


class Old(Shout):
    api_version = 7


class Unfinished(plugin.Backend):
    api_version = 1
    name = "unfinished"


class Malformed(Shout):
    name = "malformed"
    models = None


class Greedy(Shout):
    name = "greedy"

    def claims_model(self, model: str) -> bool:
        return True


class Unchecked(Shout):
    name = "unchecked"

    def checkup(self, host: plugin.Host) -> plugin.Checkup:
        raise ValueError("no checks")


class Unhealthy(Shout):
    name = "unhealthy"

    def launch(self, *_: object) -> plugin.Launch:
        raise ValueError("no luck")


class Quitting(Shout):
    def __init__(self) -> None:
        raise SystemExit("no luck")


def function() -> None: ...
"""
ERRORS = {
    "absent": ("absent:Shout", "ModuleNotFoundError: No module named 'absent'"),
    "function": ("broken:function", "broken:function is not a subclass of clinvk.plugin.Backend"),
    "greedy": ("broken:Greedy", "it claims every model"),
    "malformed": ("broken:Malformed", "its attribute models is wrong"),
    "old": ("broken:Old", "its api_version is 7, and this clinvk supports version 1 only"),
    "quitting": ("broken:Quitting", "SystemExit: no luck"),
    "renamed": ("clinvk_shout:Shout", "its backend is named 'shout'"),
    "unchecked": ("broken:Unchecked", "ValueError: no checks"),
    "unfinished": ("broken:Unfinished", "TypeError: Can't instantiate abstract class Unfinished"),
    "Upper": ("clinvk_shout:Shout", "the name of a backend must be"),
    "bad:claude": ("clinvk_shout:Shout", "the name is taken"),
    "bad:qwen": ("clinvk_shout:Shout", "the name is taken"),
    "bad:shout": ("clinvk_shout:Shout", "the name is taken"),
}
"""The plug-ins of the package `bad`: the name in lists, the object, and the error."""


def install(folder: Path, package: str, **entry_points: str) -> None:
    """Add the metadata of a package to a folder."""
    metadata = folder / f"{package}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = (f"{name} = {value}" for name, value in entry_points.items())
    (metadata / "entry_points.txt").write_text("\n".join(["[clinvk.backends]", *lines]))


def install_examples(folder: Path) -> None:
    """Add both templates."""
    install(folder, "a-shout", shout="clinvk_shout:Shout")
    install(folder, "clinvk-parrot", parrot="clinvk_parrot:Parrot")
    (folder / "clinvk_shout.py").symlink_to(EXAMPLES / "text" / "clinvk_shout.py")
    (folder / "clinvk_parrot").symlink_to(EXAMPLES / "json_lines" / "clinvk_parrot")


def install_broken(folder: Path) -> None:
    """Add a package whose plug-ins are all broken, and one whose check fails."""
    install(folder, "bad", **{name.rpartition(":")[2]: value for name, (value, _) in ERRORS.items()})
    (folder / "broken.py").write_text(BROKEN)
    install(folder, "unhealthy", unhealthy="broken:Unhealthy")

"""One command line, one REST API and two model APIs for the coding-agent CLIs on this machine.

The public names below are imported on first use, which keeps `import clinvk` fast.
"""

# Not imported from `typing`: the import costs more than the rest of this module. Type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from clinvk.types.choices import ApprovalMode, SandboxMode
    from clinvk.types.errors import ClinvkError
    from clinvk.types.events import (
        Event,
        Progress,
        RunFailed,
        RunFinished,
        RunResult,
        RunStarted,
        TextDelta,
        ThinkingDelta,
        ToolCall,
        ToolResult,
        Usage,
        collect,
    )
    from clinvk.types.request import RunRequest

__version__ = "0.3.0"

__all__ = [
    "ApprovalMode",
    "ClinvkError",
    "Event",
    "Progress",
    "RunFailed",
    "RunFinished",
    "RunRequest",
    "RunResult",
    "RunStarted",
    "SandboxMode",
    "TextDelta",
    "ThinkingDelta",
    "ToolCall",
    "ToolResult",
    "Usage",
    "__version__",
    "collect",
]

_HOME = {
    "ApprovalMode": "choices",
    "RunRequest": "request",
    "SandboxMode": "choices",
    "ClinvkError": "errors",
}
"""The modules of the public names, in `clinvk.types`; unlisted names are in `events`."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.types.{_HOME.get(name, 'events')}"), name)

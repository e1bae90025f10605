"""One face for the coding-agent CLIs on this machine: a command line, a REST API and model APIs.

The public names below are resolved on first use, so that `import clinvk` costs nothing.
"""

# Not from `typing`, whose import costs more than all the rest of this module; type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from clinvk.types.errors import ClinvkError
    from clinvk.types.events import (
        Event,
        Progress,
        RunFailed,
        RunFinished,
        RunStarted,
        TextDelta,
        ThinkingDelta,
        ToolCall,
        ToolResult,
        Usage,
    )
    from clinvk.types.request import ApprovalMode, RunRequest, SandboxMode
    from clinvk.types.result import RunResult, collect

__version__ = "0.1.0"

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
    "ApprovalMode": "request",
    "RunRequest": "request",
    "SandboxMode": "request",
    "ClinvkError": "errors",
    "RunResult": "result",
    "collect": "result",
}
"""The modules of the public names, in `types`; those not listed are in `events`."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.types.{_HOME.get(name, 'events')}"), name)

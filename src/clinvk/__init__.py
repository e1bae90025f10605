"""One face for the coding-agent CLIs on this machine: a command line, a REST API and model APIs.

The public names below are resolved on first use, so that `import clinvk` costs nothing.
"""

__version__ = "0.1.0"

_HOME = {
    "ApprovalMode": "request",
    "RunRequest": "request",
    "SandboxMode": "request",
    "ClinvkError": "errors",
    "Event": "events",
    "Progress": "events",
    "RunFailed": "events",
    "RunFinished": "events",
    "RunStarted": "events",
    "TextDelta": "events",
    "ThinkingDelta": "events",
    "ToolCall": "events",
    "ToolResult": "events",
    "Usage": "events",
    "RunResult": "result",
    "collect": "result",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)

"""The client's tools as dynamic tools of `codex app-server` (0.171.0); Codex has no tools of its own besides them.

Codex fixes the tools at the start of a thread. It asks for each call with the id that the model chose, and waits for
the answer without a time limit. `rawResponse/completed` follows the last call of the model's answer.

Without a catalogue of its models, Codex would keep `apply_patch`, and would offer the client's tools to newer models
only as functions of a JavaScript interpreter.
"""

import re
from functools import lru_cache

import msgspec

from clinvk.backends.base import PRIVATE
from clinvk.backends.shared import MODEL_PROMPT, base64_data, toml_string, tool_names
from clinvk.types.request import ClientTool, Image, RunRequest, ToolOutput

CATALOG = "models.json"
"""The private file with the models that Codex knows."""

LIST_MODELS = ("debug", "models")
"""The arguments of the command that prints the models, in 0.2 s."""

TOOLS = "dynamicTools"
"""The parameter of a thread with the tools, which is experimental."""

FLAGS = ("--disable", "shell_tool", "--disable", "unified_exec")
CONFIG = {
    "model_catalog_json": f'"{PRIVATE}/{CATALOG}"',
    "tool_output_token_limit": "1000000000",
    "features.multi_agent": "false",
    "features.view_image": "false",
    "web_search": toml_string("disabled"),
    "skills.include_instructions": "false",
    "skills.bundled.enabled": "false",
    "include_environment_context": "false",
    "include_permissions_instructions": "false",
    "project_doc_max_bytes": "0",
}

_WITHOUT = ("tool_mode", "multi_agent_version", "model_messages")
_WITH: dict[str, object] = {
    "supports_search_tool": False,
    "apply_patch_tool_type": None,
    "experimental_supported_tools": (),
    "use_responses_lite": False,
    "base_instructions": "",
}

_RESERVED_NAME = re.compile("exec_command|shell_command|request_user_input|apply_patch|mcp__.*")
"""Names that Codex accepts for a dynamic tool and does not offer."""

_DROPPED = re.compile(
    rb'"(?:minimum|maximum|exclusiveMinimum|exclusiveMaximum|multipleOf|default|maxItems|format|pattern|minLength|'
    rb'maxLength|const|x-[^"]*)":'
)
"""Keywords of a schema that Codex drops."""

_catalogs = msgspec.json.Decoder(dict[str, list[dict[str, object]]])


@lru_cache(maxsize=1)
def catalog(models: bytes) -> bytes:
    """Return the catalogue of a CLI's models without their own tools; `models` is the output of `LIST_MODELS`."""
    listed = _catalogs.decode(models).get("models", [])
    kept = [{name: value for name, value in model.items() if name not in _WITHOUT} | _WITH for model in listed]
    return msgspec.json.encode({"models": kept})


def names(tools: tuple[ClientTool, ...]) -> dict[str, str]:
    """Return the name for Codex of each tool by the client's name."""
    return tool_names(tools, lambda name: f"client_{name}" if _RESERVED_NAME.fullmatch(name) else name)


def session_params(request: RunRequest) -> dict[str, object]:
    """Return the parameters of a thread that offers the client's tools."""
    called = names(request.client_tools)
    tools = [
        {
            "type": "function",
            "name": called[tool.name],
            "description": _description(tool),
            "inputSchema": {"type": "object", **tool.schema},
        }
        for tool in request.client_tools
    ]
    own: dict[str, object] = {"baseInstructions": request.system_prompt or MODEL_PROMPT, "environments": ()}
    return {TOOLS: tools, "experimentalRawEvents": True, **({} if request.own_tools else own)}


def _description(tool: ClientTool) -> str:
    """Return the description, with the schema if Codex drops a part of the schema."""
    schema = msgspec.json.encode(tool.schema)
    if not _DROPPED.search(schema):
        return tool.description
    return f"{tool.description}\n\nThe arguments match this JSON Schema: {schema.decode()}"


def result(output: ToolOutput) -> dict[str, object]:
    """Return the answer to a call."""
    items = [
        {"type": "inputImage", "imageUrl": f"data:{part.media_type};base64,{base64_data(part)}"}
        if isinstance(part, Image)
        else {"type": "inputText", "text": part}
        for part in output.content or ("",)
    ]
    if output.is_error:  # Codex shows the model only the content
        items.insert(0, {"type": "inputText", "text": "The tool failed:"})
    return {"contentItems": items, "success": not output.is_error}

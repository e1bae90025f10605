"""Agents that speak the Agent Client Protocol: how each is started and installed, and how its user logs in."""

import shlex
from typing import NamedTuple


class Preset(NamedTuple):
    """The command line of an agent, its installation command, its login instructions, and the folders of its data."""

    argv: tuple[str, ...]
    install: str
    login: str
    folders: tuple[str, ...]


PRESETS = {
    "auggie": Preset(("auggie", "--acp"), "npm install -g @augmentcode/auggie", "auggie login", ("~/.augment",)),
    "cline": Preset(("cline", "--acp"), "npm install -g cline", "cline auth", ("~/.cline",)),
    "copilot": Preset(
        ("copilot", "--acp", "--stdio"), "npm install -g @github/copilot", "copilot login", ("~/.copilot",)
    ),
    "cursor": Preset(
        ("cursor-agent", "acp"), "see https://cursor.com/cli", "cursor-agent login", ("~/.cursor", "~/.config/cursor")
    ),
    "goose": Preset(
        ("goose", "acp"),
        "see https://block.github.io/goose",
        "goose configure",
        ("~/.config/goose", "~/.local/share/goose", "~/.local/state/goose"),
    ),
    "grok": Preset(("grok", "agent", "stdio"), "npm install -g @xai-official/grok", "grok login", ("~/.grok",)),
    "junie": Preset(("junie", "--acp=true"), "see https://junie.jetbrains.com", "junie", ("~/.junie",)),
    "kimi": Preset(("kimi", "acp"), "uv tool install kimi-cli", "kimi login", ("~/.kimi",)),
    "kiro": Preset(
        ("kiro-cli", "acp"), "see https://kiro.dev/cli", "kiro-cli login", ("~/.kiro", "~/.local/share/kiro-cli")
    ),
    "opencode": Preset(
        ("opencode", "acp"),
        "npm install -g opencode-ai",
        "opencode auth login",
        ("~/.config/opencode", "~/.local/share/opencode", "~/.local/state/opencode", "~/.cache/opencode"),
    ),
    "openhands": Preset(("openhands", "acp"), "uv tool install openhands", "openhands login", ("~/.openhands",)),
    "qwen": Preset(("qwen", "--acp"), "npm install -g @qwen-code/qwen-code", "qwen auth", ("~/.qwen",)),
    "vibe": Preset(("vibe-acp",), "uv tool install mistral-vibe", "vibe --setup", ("~/.vibe",)),
}


def enabling_command(name: str) -> str:
    """Return the command that adds the agent of a preset to the settings."""
    return f"clinvk config set backends.{name}.acp {shlex.quote(shlex.join(PRESETS[name].argv))}"

"""Check whether the installed Gemini CLI can be used, from the help of 0.61.0 and the CLI's login sources."""

import re

from clinvk.backends.base import PRIVATE, Backend, Host
from clinvk.backends.checkup_base import Checkup, FlagProbe, LoginStatus, ProbeOutput, flags_in, launches
from clinvk.backends.gemini import home
from clinvk.types.errors import InvalidRequest

_VERTEX_NEEDS = "Vertex AI needs GOOGLE_API_KEY, or GOOGLE_CLOUD_PROJECT and GOOGLE_CLOUD_LOCATION"
_LOG_IN = "gemini"
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
_VARIABLE = re.compile(r"^\s*(?:export\s+)?([A-Z_]+)\s*=\s*\S", re.MULTILINE)


def checkup(backend: Backend, host: Host) -> Checkup:
    """Return the checks for the installed Gemini CLI."""
    used = tuple(dict.fromkeys(flag for launch in launches(backend) for flag in flags_in(launch.argv)))

    def lacking(answer: ProbeOutput) -> tuple[str, ...] | None:
        known = set(_FLAG.findall(answer.text))
        return tuple(flag for flag in used if flag not in known) if "--help" in known else None

    return Checkup(
        empty_home={"GEMINI_CLI_HOME": PRIVATE, "GEMINI_CLI_NO_RELAUNCH": "true"},
        probes=(FlagProbe((backend.executable, "--help"), lacking),),
        login=_login(host),
    )


def _login(host: Host) -> LoginStatus:
    """Return the login that the CLI would find. Like the CLI, check the settings, then the environment."""
    try:
        chosen = home.chosen_login(host)
    except InvalidRequest as exc:
        return LoginStatus(False, exc.message)
    folder = home.user_folder(host)
    file = host.read(f"{folder}/.env") or host.read("~/.env") or b""
    given = {name for name, value in host.env.items() if value} | set(_VARIABLE.findall(file.decode(errors="replace")))
    match chosen or _by_environment(host, given):
        case "oauth-personal":
            there = any(host.read(f"{folder}/{name}") for name in ("oauth_creds.json", "gemini-credentials.json"))
            about = "logged in with Google" if there else "not logged in with Google"
            return LoginStatus(there, about, "" if there else _LOG_IN)
        case "gemini-api-key":
            there = "GEMINI_API_KEY" in given
            about = "API key in GEMINI_API_KEY" if there else "no GEMINI_API_KEY; its key may be in the keychain"
            return LoginStatus(there or None, about)
        case "vertex-ai":
            there = "GOOGLE_API_KEY" in given or {"GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION"} <= given
            return LoginStatus(there, "Vertex AI" if there else _VERTEX_NEEDS)
        case "gateway":
            return LoginStatus(
                False, f"GOOGLE_GEMINI_BASE_URL needs security.auth.selectedType in {folder}/settings.json"
            )
        case other:
            missing = LoginStatus(False, "not logged in; GEMINI_API_KEY is not set", _LOG_IN)
            return LoginStatus(None, f"login {other}") if other else missing


def _by_environment(host: Host, given: set[str]) -> str | None:
    if host.env.get("GOOGLE_GENAI_USE_GCA") == "true":
        return "oauth-personal"
    if host.env.get("GOOGLE_GENAI_USE_VERTEXAI") == "true":
        return "vertex-ai"
    if "GOOGLE_GEMINI_BASE_URL" in given:
        return "gateway"
    return "gemini-api-key" if "GEMINI_API_KEY" in given else None

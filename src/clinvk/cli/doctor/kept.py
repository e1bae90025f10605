"""Whether `clinvk serve` would keep agent processes for prompts to come, and of which agents."""

from clinvk.backends import BACKENDS
from clinvk.cli.doctor.report import Check
from clinvk.config import Settings
from clinvk.runtime import bounds


def of(settings: Settings, backend: str) -> bool:
    """Say whether processes of a backend may be kept."""
    return not _why_not(settings) and backend in settings.warm.kept_backends


def check(settings: Settings) -> Check:
    """Say of which they are, or why of none."""
    if why := _why_not(settings):
        return Check("settings", "warm", "skipped", f"each prompt starts its agent: {why}")
    warm = settings.warm
    others = [name for name in BACKENDS if name not in warm.kept_backends]
    memory = f", of {warm.max_memory_mb} MB together" if warm.max_memory_mb else ""
    message = f"clinvk serve keeps processes of {', '.join(warm.kept_backends)}: at most {warm.max_processes}{memory}"
    if others:
        message += f"; not of {', '.join(others)} (warm.kept_backends)"
    return Check("settings", "warm", "ok", message)


def check_prestart(settings: Settings) -> Check | None:
    """Say of which agents none is started ahead, though the settings want one; None where there are none such."""
    names = settings.warm.never_started
    if _why_not(settings) or not names:
        return None
    about = f"warm.prestart starts none of {', '.join(names)}: not in warm.kept_backends"
    return Check("settings", "warm", "warning", about)


def _why_not(settings: Settings) -> str:
    if not settings.warm.enabled:
        return "warm.enabled: false"
    if bounds.are_per_process(settings.agents):
        return "limits as agents.max_memory_mb are of each run"
    if not settings.warm.max_processes:
        return "warm.max_processes: 0"
    return "" if settings.warm.kept_backends else "warm.kept_backends: []"

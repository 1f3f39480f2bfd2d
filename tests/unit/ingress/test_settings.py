"""Settings from the environment: what is right, and what is told where they are wrong."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from ingress.owners.ledger import How
from ingress.settings import HELP, Settings
from stackpad.errors import InvalidRequest
from stackpad.listening import Place
from tools.install import ingress_mounts


def test_only_the_base_domain_is_required() -> None:
    settings = Settings.load({"BASE_DOMAIN": "Stackpad.Test."})
    assert settings == Settings("stackpad.test")
    assert settings.ask_address == "127.0.0.1:9180"
    assert settings.names_address == "", "hosts are in Caddy's configuration"


def test_everything_can_be_set() -> None:
    environment = {
        "BASE_DOMAIN": "a.example", "ORG": "ACME", "TLS": "acme", "ACME_EMAIL": "me@a.example",
        "ACME_CA": "https://ca.example/dir", "ACME_CA_ROOT": "/ca.pem", "DOCKER_HOST": "unix:///x", "CADDY_ADMIN": "/a",
        "ADMIN_SOCKET": "/b", "ASK_LISTEN": "[::1]:9", "PAGE_SOCKET": "/p", "PAGE_LISTEN": "127.0.0.1:8377",
        "HTTP_PORT": "8080", "HTTPS_PORT": "8443", "STATE_DIR": "/s",
        "DOMAIN_PROOF": "DNS", "PROOF_DNS": "192.0.2.53, 127.0.0.1:5353 2001:db8::1 [2001:db8::2]:54 [2001:db8::3]",
        "ACME_DNS": '{"name": "x"}', "CERTIFICATES": "/c",
        "DRIVERS": "x, y", "LOG_LEVEL": "DEBUG", "NET_SOCKET": "/n", "ROLE": "Node", "UPSTREAMS": "Direct",
        "ACCESS_LOG": "/l", "ROUTING": "SRV", "NAMES_LISTEN": "[::1]:7",
    }  # fmt: skip
    assert environment.keys() == HELP.keys()
    settings = Settings.load(environment)
    assert settings.ask_address == "[::1]:9"
    assert settings.names_address == "[::1]:7"
    assert settings.drivers == {"x", "y"}
    assert settings.domain_proof == {How.DNS}
    assert settings.proof_dns == (
        ("192.0.2.53", 53), ("127.0.0.1", 5353), ("2001:db8::1", 53), ("2001:db8::2", 54), ("2001:db8::3", 53)
    )  # fmt: skip
    defaults = Settings("a.example")
    same = [f.name for f in fields(Settings) if getattr(settings, f.name) == getattr(defaults, f.name)]
    assert same == ["base_domain", "tls"]


def test_an_older_plugin_is_looked_for_unless_somebody_says_where_it_is() -> None:
    usual, said = (Settings.load({"BASE_DOMAIN": "a.example", "NET_SOCKET": text}) for text in ("", "/n/web.sock"))
    assert usual.plugin == Place(Path("/run/stackpad/web/web.sock"), Path("/run/stackpad/net.sock"))
    assert said.plugin == Place(Path("/n/web.sock"))


def test_the_directories_of_all_sockets_are_watched() -> None:
    """Those that `make install` mounts: what is made anew outside cannot be seen inside."""
    made = Settings.load({"BASE_DOMAIN": "a.example", "DOCKER_HOST": "unix:///run/stackpad/view/engine.sock"})
    mounted = {mount.split(":")[0] for mount in ingress_mounts(str(made.caddy_admin))}
    assert {str(directory) for directory in made.directories} == mounted - {str(made.state_dir)}
    far = Settings.load({"BASE_DOMAIN": "a.example", "DOCKER_HOST": "tcp://192.0.2.1:2376"})
    assert len(far.directories) == 3


def test_domains_can_be_believed() -> None:
    assert Settings.load({"BASE_DOMAIN": "a.example", "DOMAIN_PROOF": "none"}).domain_proof == frozenset()


def test_empty_is_unset() -> None:
    unset = {name: " " for name in HELP if name != "BASE_DOMAIN"}
    assert Settings.load({"BASE_DOMAIN": "a.example", **unset}) == Settings("a.example")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("BASE_DOMAIN", "", "BASE_DOMAIN is not set"),
        ("BASE_DOMAIN", "localhost", "is not a domain name"),
        ("ORG", "a.b", "ORG='a.b'"),
        ("ORG", "My Company", "such as ORG=my-company"),
        ("TLS", "on", "use one of acme, internal"),
        ("ROLE", "master", "use one of auto, control, node"),
        ("ACME_CA", "ca.example", "is not the https:// address"),
        ("ACME_DNS", '["x"]', "ACME_DNS is no JSON object"),
        ("ACME_DNS", "cloudflare", "ACME_DNS is no JSON object"),
        ("ACME_DNS", '{"api_token": "secret"}', 'ACME_DNS has no "name"'),
        ("ACME_DNS", '{"name": "a.b"}', 'ACME_DNS has no "name"'),
        ("CERTIFICATES", "certificates", "is not an absolute path"),
        ("ASK_LISTEN", "0.0.0.0:9180", "is not a loopback address"),
        ("ASK_LISTEN", "127.0.0.1", "is not a loopback address"),
        ("ASK_LISTEN", "127.0.0.1:0", "is not a port"),
        ("NAMES_LISTEN", "0.0.0.0:53", "is not a loopback address"),
        ("ROUTING", "dns", "use one of table, srv"),
        ("HTTP_PORT", "http", "HTTP_PORT='http' is not a port"),
        ("HTTPS_PORT", "65536", "HTTPS_PORT='65536' is not a port"),
        ("DRIVERS", ",", "DRIVERS names no driver"),
        ("DOMAIN_PROOF", "txt", "use dns, http, dns,http or none"),
        ("DOMAIN_PROOF", "none,dns", "use dns, http, dns,http or none"),
        ("DOMAIN_PROOF", "operator", "use dns, http, dns,http or none"),
        ("PROOF_DNS", "ns.example.org", "is not an address such as 192.0.2.53"),
        ("PROOF_DNS", "192.0.2.53:0", "is not a port"),
        ("PROOF_DNS", "[192.0.2.53", "is not a"),
        ("LOG_LEVEL", "loud", "use one of debug, info"),
        ("UPSTREAMS", "srv", "use one of auto, direct"),
    ],
)
def test_what_is_wrong_is_told_with_its_value(name: str, value: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Settings.load({"BASE_DOMAIN": "a.example", name: value})
    assert words in str(caught.value)


def test_a_provider_of_caddys_is_taken_as_it_is_and_its_secrets_are_not_repeated() -> None:
    provider = '{"name": "cloudflare", "api_token": "{env.CF_TOKEN}"}'
    made = Settings.load({"BASE_DOMAIN": "a.example", "ACME_DNS": provider})
    assert made.acme_dns == {"name": "cloudflare", "api_token": "{env.CF_TOKEN}"}
    with pytest.raises(InvalidRequest, match="TLS=internal; unset one") as caught:
        Settings.load({"BASE_DOMAIN": "a.example", "ACME_DNS": provider, "TLS": "internal"})
    assert "CF_TOKEN" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "environment", "status", "words"),
    [
        (["--check"], {"BASE_DOMAIN": "a.example"}, 0, ""),
        (["--check"], {"BASE_DOMAIN": "{x}"}, 1, "ingress: '{x}' is not a domain name"),
        (["--check"], {}, 1, "ingress: BASE_DOMAIN is not set"),
        (["--version"], {}, 0, "stackpad"),
        (["--help"], {}, 0, "ASK_LISTEN"),
    ],
)
def test_the_command(arguments: list[str], environment: dict[str, str], status: int, words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ingress", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == status
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr

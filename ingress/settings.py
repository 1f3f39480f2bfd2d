"""Settings of the ingress, from its environment."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ingress.owners.ledger import How
from ingress.owners.proof import METHODS
from stackpad import jsontext
from stackpad.errors import InvalidRequest
from stackpad.hosts import LABEL, host_name, near_label
from stackpad.listening import Place

LEVELS = ("debug", "info", "warning", "error")
ISSUERS = ("acme", "internal")
ROLES = ("auto", "control", "node")
PROVIDER = re.compile(r"[a-z0-9_]{1,50}")
UPSTREAMS = ("auto", "direct")
ROUTING = ("table", "srv")
ADMIN_SOCKET = Path("/run/stackpad/ingress/ingress.sock")
STATE_DIR = Path("/var/lib/stackpad/ingress")
NET_SOCKET = Path("/run/stackpad/web/web.sock")
OLDER_NET_SOCKET = Path("/run/stackpad/net.sock")
"""The plugin's admin socket: all that a plugin had before it gave the ingress one of its own."""

HELP = {
    "BASE_DOMAIN": "domain under which projects get their names; required, e.g. stackpad.test",
    "ORG": "organisation of services that name none (default: local)",
    "TLS": "acme for certificates of a public authority, internal for Caddy's own (default: acme)",
    "ACME_EMAIL": "address the authority may write to",
    "ACME_CA": "directory of another ACME authority",
    "ACME_CA_ROOT": "file with the root certificate that authority is trusted by",
    "ACME_DNS": 'DNS provider of Caddy\'s, for wildcards of organisations: {"name": "…", …}, as in its JSON',
    "CERTIFICATES": "directory of certificates of your own, NAME.crt with NAME.key; Caddy reads them, too",
    "DOCKER_HOST": "the engine's socket (default: unix:///run/docker.sock)",
    "CADDY_ADMIN": "Caddy's admin socket (default: /run/caddy/admin.sock)",
    "ADMIN_SOCKET": "our own socket for the command line (default: /run/stackpad/ingress/ingress.sock)",
    "PAGE_SOCKET": "the status page's socket (default: page.sock beside ADMIN_SOCKET)",
    "PAGE_LISTEN": "loopback address and port where everybody on this machine may read the status page, too",
    "ASK_LISTEN": "where Caddy asks whether a host may have a certificate (default: 127.0.0.1:9180)",
    "HTTP_PORT": "port from which visitors are sent on to HTTPS (default: 80)",
    "HTTPS_PORT": "port of the server our route goes into, made where there is none (default: 443)",
    "STATE_DIR": "where claims of host names are kept (default: /var/lib/stackpad/ingress)",
    "NET_SOCKET": "the plugin's socket for us, by which other nodes are known (default: /run/stackpad/web/web.sock)",
    "ROLE": "control where visitors come in, node elsewhere; by itself, that of the store's node (default: auto)",
    "DOMAIN_PROOF": "how custom domains are proved: dns, http, both with a comma, or none (default: dns,http)",
    "PROOF_DNS": "name servers that are asked for proofs, as 192.0.2.53 or [2001:db8::53]:5353 (default: the machine's)",
    "UPSTREAMS": "auto for numbers that the kernel leads to containers, direct for their addresses (default: auto)",
    "ROUTING": "table for hosts in Caddy's configuration, srv for hosts that it asks for at each visit (default: table)",
    "NAMES_LISTEN": "where Caddy asks for hosts with ROUTING=srv (default: 127.0.0.1:9181)",
    "ACCESS_LOG": "where Caddy writes its access log, with whose visit it was: a path as Caddy sees it, stdout or stderr",
    "DRIVERS": "network drivers whose containers are served (default: stackpad,stackpad/net:latest)",
    "LOG_LEVEL": "debug, info, warning or error (default: info)",
}
"""Every setting and what it means; ``python -m ingress --help`` prints it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator may set; see :data:`HELP`."""

    base_domain: str
    org: str = "local"
    tls: str = "acme"
    acme_email: str = ""
    acme_ca: str = ""
    acme_ca_root: str = ""
    acme_dns: dict[str, Any] | None = None
    certificates: Path | None = None
    docker_host: str = "unix:///run/docker.sock"
    caddy_admin: Path = Path("/run/caddy/admin.sock")
    admin_socket: Path = ADMIN_SOCKET
    page_socket: Path | None = None
    page_listen: tuple[str, int] | None = None
    ask_host: str = "127.0.0.1"
    ask_port: int = 9180
    http_port: int = 80
    https_port: int = 443
    state_dir: Path = STATE_DIR
    domain_proof: frozenset[How] = frozenset(METHODS)
    proof_dns: tuple[tuple[str, int], ...] = ()
    upstreams: str = "auto"
    routing: str = "table"
    names_host: str = "127.0.0.1"
    names_port: int = 9181
    access_log: str = ""
    drivers: frozenset[str] = frozenset({"stackpad", "stackpad/net:latest"})
    log_level: str = "info"
    net_socket: Path = NET_SOCKET
    role: str = "auto"

    @property
    def plugin(self) -> Place:
        """Where the plugin is; one that has its admin socket only is asked there, if that is to be had."""
        return Place(self.net_socket, OLDER_NET_SOCKET if self.net_socket == NET_SOCKET else None)

    @property
    def directories(self) -> tuple[Path, ...]:
        """Those of the sockets, which a container is given from outside."""
        sockets = [self.caddy_admin, self.admin_socket, self.net_socket]
        if self.docker_host.startswith("unix://"):
            sockets.append(Path(self.docker_host.removeprefix("unix://")))
        return tuple(dict.fromkeys(socket.parent for socket in sockets))

    @property
    def page_path(self) -> Path:
        """Where the status page's socket is."""
        return self.page_socket or self.admin_socket.with_name("page.sock")

    @property
    def claims_file(self) -> Path:
        """Where who owns which host name is kept."""
        return self.state_dir / "claims.json"

    @property
    def seen_file(self) -> Path:
        """Where the certificates that hosts were seen with are kept."""
        return self.state_dir / "certificates.json"

    @property
    def numbers_file(self) -> Path:
        """Where it is kept which number each service has."""
        return self.state_dir / "upstreams.json"

    @property
    def ask_address(self) -> str:
        """Where Caddy asks, as it stands in a URL."""
        return _joined(self.ask_host, self.ask_port)

    @property
    def names_address(self) -> str:
        """Where Caddy asks for hosts by name; empty where they are in its configuration."""
        return _joined(self.names_host, self.names_port) if self.routing == "srv" else ""

    @classmethod
    def load(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read the environment; raises :class:`InvalidRequest` naming the setting and what would be right."""

        def text(name: str, default: str) -> str:
            return environment.get(name, "").strip() or default

        if not environment.get("BASE_DOMAIN", "").strip():
            raise InvalidRequest("BASE_DOMAIN is not set; give the domain projects get names under, e.g. stackpad.test")
        org = text("ORG", "local").lower()
        if not LABEL.fullmatch(org):
            near = near_label(org)
            raise InvalidRequest(
                f"ORG={org!r} cannot be part of a host name: use up to 63 letters, digits and '-', not at its ends"
                + (f", such as ORG={near}" if near else "")
            )
        drivers = frozenset(text("DRIVERS", "stackpad,stackpad/net:latest").replace(",", " ").split())
        if not drivers:
            raise InvalidRequest("DRIVERS names no driver; leave it unset for stackpad,stackpad/net:latest")
        ca = text("ACME_CA", "")
        if ca and not ca.startswith("https://"):
            raise InvalidRequest(f"ACME_CA={ca!r} is not the https:// address of an ACME directory")
        tls = _one_of("TLS", text("TLS", "acme"), ISSUERS)
        host, port = _listen("ASK_LISTEN", text("ASK_LISTEN", "127.0.0.1:9180"))
        names_host, names_port = _listen("NAMES_LISTEN", text("NAMES_LISTEN", "127.0.0.1:9181"))
        page_socket, page_listen = text("PAGE_SOCKET", ""), text("PAGE_LISTEN", "")
        return cls(
            base_domain=host_name(environment["BASE_DOMAIN"]),
            org=org,
            tls=tls,
            acme_email=text("ACME_EMAIL", ""),
            acme_ca=ca,
            acme_ca_root=text("ACME_CA_ROOT", ""),
            acme_dns=_provider(text("ACME_DNS", ""), tls),
            certificates=_directory(text("CERTIFICATES", "")),
            docker_host=text("DOCKER_HOST", "unix:///run/docker.sock"),
            caddy_admin=Path(text("CADDY_ADMIN", "/run/caddy/admin.sock")),
            admin_socket=Path(text("ADMIN_SOCKET", str(ADMIN_SOCKET))),
            page_socket=Path(page_socket) if page_socket else None,
            page_listen=_listen("PAGE_LISTEN", page_listen) if page_listen else None,
            ask_host=host,
            ask_port=port,
            http_port=_port("HTTP_PORT", text("HTTP_PORT", "80")),
            https_port=_port("HTTPS_PORT", text("HTTPS_PORT", "443")),
            state_dir=Path(text("STATE_DIR", str(STATE_DIR))),
            domain_proof=_methods(text("DOMAIN_PROOF", "dns,http").lower()),
            proof_dns=tuple(_server(word) for word in text("PROOF_DNS", "").replace(",", " ").split()),
            upstreams=_one_of("UPSTREAMS", text("UPSTREAMS", "auto").lower(), UPSTREAMS),
            routing=_one_of("ROUTING", text("ROUTING", "table").lower(), ROUTING),
            names_host=names_host,
            names_port=names_port,
            access_log=_log(text("ACCESS_LOG", "")),
            drivers=drivers,
            net_socket=Path(text("NET_SOCKET", str(NET_SOCKET))),
            role=_one_of("ROLE", text("ROLE", "auto").lower(), ROLES),
            log_level=_one_of("LOG_LEVEL", text("LOG_LEVEL", "info").lower(), LEVELS),
        )


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise InvalidRequest(f"{name}={value!r} is unknown; use one of {', '.join(allowed)}")
    return value


def _methods(text: str) -> frozenset[How]:
    words = set(text.replace(",", " ").split())
    if not words or not (words == {"none"} or words <= set(METHODS)):
        raise InvalidRequest(f"DOMAIN_PROOF={text!r} is unknown; use dns, http, dns,http or none")
    return frozenset(method for method in METHODS if method in words)


def _server(text: str) -> tuple[str, int]:
    """A name server's address, with a port or without; IPv6 with a port is in brackets."""
    host, port = text, "53"
    if text.startswith("[") or text.count(":") == 1:
        host, _, port = text.rpartition(":") if not text.endswith("]") else (text, "", "53")
    try:
        address = str(ipaddress.ip_address(host.strip("[]")))
    except ValueError as error:
        raise InvalidRequest(f"PROOF_DNS={text!r} is not an address such as 192.0.2.53 or 192.0.2.53:5353") from error
    return address, _port("PROOF_DNS", port)


def _port(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise InvalidRequest(f"{name}={text!r} is not a port between 1 and 65535")
    return int(text)


def _listen(name: str, text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    try:
        loopback = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise InvalidRequest(f"{name}={text!r} is not a loopback address with a port, such as 127.0.0.1:9180")
    return host.strip("[]"), _port(name, port)


def _provider(text: str, tls: str) -> dict[str, Any] | None:
    """A DNS provider as it stands in Caddy's JSON; its words are not repeated, since they hold a secret."""
    if not text:
        return None
    try:
        provider = jsontext.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise InvalidRequest('ACME_DNS is no JSON object such as {"name": "cloudflare", "api_token": "…"}') from error
    if not PROVIDER.fullmatch(str(provider.get("name", ""))):
        raise InvalidRequest('ACME_DNS has no "name" of one of Caddy\'s modules dns.providers.*, such as "cloudflare"')
    if tls != "acme":
        raise InvalidRequest(f"ACME_DNS is for certificates of a public authority, and TLS={tls}; unset one of them")
    return provider


def _log(text: str) -> str:
    if text and text not in {"stdout", "stderr"} and (not text.startswith("/") or "{" in text):
        raise InvalidRequest(f"ACCESS_LOG={text!r} is no absolute path, as Caddy sees it, and neither stdout nor stderr")
    return text


def _directory(text: str) -> Path | None:
    if text and not text.startswith("/"):
        raise InvalidRequest(f"CERTIFICATES={text!r} is not an absolute path; Caddy reads the files by it, too")
    return Path(text) if text else None

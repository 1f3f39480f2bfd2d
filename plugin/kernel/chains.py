"""The chains of our two tables: what is checked where; pure text.

Two tables. ``bridge stackpad`` sees frames as they enter a bridge from a container: who sends must use the MAC
and IP addresses of its endpoint, announce no others, and may not play router. ``inet stackpad`` sees what is routed
and what is meant for the node: a container reaches its own network, the outside (unless internal), and of the node what
the outside may reach as well.

Frames to the addresses IEEE 802.1D reserves (01:80:c2:00:00:0x) go around a bridge: not through its *prerouting*, and up
to the node as if its end of the veth pair were an interface like any other, an IP packet in them included. They are
dropped where they are learnt from, in *input*, and once more where such an interface shows.

An address that only the node itself may use (its loopback's, a stable upstream's), or only who comes through the tunnel,
is closed to all others where packets come in: a published port is redirected before routing, and no later check, the
kernel's own for 127.0.0.0/8 among them, sees the address that was asked for.

What belongs to the cluster leaves through the tunnel or not at all: its ranges are closed to containers on every other
way (``tunnel_only``, before anything that lets established flows pass), whatever the routes say at that moment. To the
containers of one environment so are ranges of it that this node refuses (``barred``), but for answers to published ports.

What the node itself sends to a *stable upstream*, a port of an address that stands for a web service, goes on to one of
the service's containers. Where there is none at the moment, or the one there is refuses, the sender hears nothing: a
refusal would be over before a pause could help, and Caddy's pauses end when its configuration changes. Nobody but the
node is redirected.

The embedded store asks nobody who he is. Of the node's own processes only those of root's user and group reach it through
the tunnel: the plugin, and the store's own gateway. The ingress is of root's user, and of another group. A socket without
a file, such as that of MPTCP's first subflow in some kernels, has no user and no group to compare: it opens nothing.

The default for our bridges (``sp-*``) is to drop: a bridge that is in no set is connected to nothing, so the
order in which links and elements appear can never open a gap. Our drops come before the engine's own rules
(``filter - 10``), because in netfilter a drop is final and an accept is not: the accepts our traffic needs from
Docker's chains are written there, see :mod:`plugin.kernel.foreign`.

A packet that turns round in its own network, because it was sent to a published port of a neighbour (or of the sender
itself), is marked on the way, for its source must be ours too: where an engine has bridged packets pass through
iptables, the hook that masquerades is not told where they came from.

What leaves for the outside does so from a port of 32768 to 49151. Left as it is, the port a container sends from would
become the node's: who sends from 443 to a client's port takes that client's connection to the node's own 443, since
connection tracking looks for a known flow before anything else ("port shadow", CVE-2021-3773).
"""

from __future__ import annotations

import ipaddress

from plugin.kernel.dataplane import PREFIXES
from plugin.naming import MESH_LINK, RESOLVER, RESOLVER6
from stackpad.metadata import METADATA4, METADATA6, METADATA_AND_DNS
from stackpad.upstreams import UPSTREAM4, UPSTREAM6

_WIDTH = {4: 32, 6: 128}

SWITCH_CHAINS = """
chain enter {
  type filter hook prerouting priority -300; policy accept;
  iifname != "spv*" accept
  ether type ip iifname . ether saddr . ip saddr @senders4 accept
  ether type arp arp htype 1 arp ptype ip iifname . arp saddr ether . arp saddr ip @senders4 jump enter_arp
  ether type ip6 icmpv6 type { nd-router-advert, nd-redirect } counter drop comment "only the node is a router"
  ether type ip6 icmpv6 type nd-neighbor-advert jump enter_own
  ether type ip6 ip6 saddr :: jump enter_nameless
  ether type ip6 iifname . ether saddr . ip6 saddr @senders6 accept
  counter drop comment "not an address of this endpoint"
}

chain enter_arp {
  iifname . ether saddr . arp saddr ip @senders4 accept
}

chain enter_own {
  iifname . @th,64,128 @own6 return
  counter drop comment "not an address of this endpoint"
}

chain enter_nameless {
  icmpv6 type nd-neighbor-solicit jump enter_own
  icmpv6 type { nd-neighbor-solicit, nd-router-solicit, mld-listener-report, mld2-listener-report } return
  counter drop comment "not an address of this endpoint"
}

chain to_node {
  type filter hook input priority -300; policy accept;
  iifname != "spv*" accept
  ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 counter drop comment "past the bridge"
  icmp type { destination-unreachable, source-quench, time-exceeded, parameter-problem } jump complaint4
  icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } jump complaint6
  icmp type redirect counter drop comment "only the node is a router"
}

chain complaint4 {
  iifname . @th,192,32 @own4 return
  counter drop comment "about a packet this endpoint never got"
}

chain complaint6 {
  iifname . @th,256,128 @own6 return
  counter drop comment "about a packet this endpoint never got"
}
"""

FILTER_CHAINS = """
chain entry_guard {
  type filter hook prerouting priority raw; policy accept;
  iifname "spv*" counter drop comment "past the bridge"
  iifname != "lo" ip daddr 127.0.0.0/8 counter drop comment "the node's loopback is not on the wire"
  iifname != "lo" ip6 daddr ::1 counter drop comment "the node's loopback is not on the wire"
  iifname != { "lo", "MESH" } ip daddr @mesh_self4 counter drop comment "the mesh is in the tunnel only"
  iifname != { "lo", "MESH" } ip6 daddr @mesh_self6 counter drop comment "the mesh is in the tunnel only"
  iifname != "sp-*" ip daddr RESOLVER fib saddr oifname "sp-*" counter drop comment "its source is elsewhere"
  iifname != "sp-*" ip6 daddr RESOLVER6 fib saddr oifname "sp-*" counter drop comment "its source is elsewhere"
  iifname @uplink_bridges ip daddr RESOLVER counter drop comment "names are for containers"
  iifname != "lo" meta iifkind != "bridge" ip daddr RESOLVER counter drop comment "names are for containers"
  iifname @uplink_bridges ip6 daddr RESOLVER6 counter drop comment "names are for containers"
  iifname != "lo" meta iifkind != "bridge" ip6 daddr RESOLVER6 counter drop comment "names are for containers"
  iifname != "lo" ip daddr UPSTREAM4 counter drop comment "upstreams are for the node"
  iifname != "lo" ip6 daddr UPSTREAM6 counter drop comment "upstreams are for the node"
}

chain publish {
  fib daddr type != local return
  dnat ip to ip daddr . meta l4proto . th dport map @published4_at
  dnat ip to meta l4proto . th dport map @published4
  dnat ip6 to ip6 daddr . meta l4proto . th dport map @published6_at
  dnat ip6 to meta l4proto . th dport map @published6
}

chain publish_to_outside {
  type nat hook prerouting priority dstnat - 5; policy accept;
  meta l4proto != { tcp, udp } accept
  iifname @internal accept
  ip daddr RESOLVER accept
  ip6 daddr RESOLVER6 accept
  iifname "sp-*" ip daddr != @node4 accept
  iifname "sp-*" ip6 daddr != @node6 accept
  jump publish
}

chain publish_to_node {
  type nat hook output priority -105; policy accept;
  ip daddr UPSTREAM4 goto upstream
  ip6 daddr UPSTREAM6 goto upstream
  meta l4proto { tcp, udp } jump publish
}

chain upstream {
  dnat ip to tcp dport map @upstream4
  dnat ip to tcp dport . (tcp sport & 0x1e) map @upstream4_shared
  dnat ip6 to tcp dport map @upstream6
  dnat ip6 to tcp dport . (tcp sport & 0x1e) map @upstream6_shared
  tcp dport @upstreams counter drop comment "nobody there now: tried again"
  tcp flags & rst == rst accept
  meta l4proto tcp counter reject with tcp reset comment "no such upstream"
  counter drop comment "no such upstream"
}

chain source_nat {
  type nat hook postrouting priority srcnat - 5; policy accept;
  oifname "sp-*" ip saddr 127.0.0.0/8 masquerade comment "the node's own, by 127.0.0.1"
  oifname "sp-*" ip6 saddr ::1 masquerade comment "the node's own, by ::1"
  oifname "sp-*" ct original ip daddr UPSTREAM4 masquerade comment "the node's own, to an upstream"
  oifname "sp-*" ct original ip6 daddr UPSTREAM6 masquerade comment "the node's own, to an upstream"
  meta mark & 0x01000000 == 0x01000000 oifname "sp-*" masquerade comment "hairpin: the answer must come back this way"
  iifname "sp-*" oifname != "sp-*" meta l4proto { tcp, udp } masquerade to :32768-49151
  iifname "sp-*" oifname != "sp-*" masquerade
}

chain from_node {
  type filter hook output priority filter - 10; policy accept;
  ip daddr . tcp dport @stores jump to_store
}

chain to_store {
  tcp flags & (syn | ack) == syn meta skuid 0 meta skgid 0 return
  tcp flags & (syn | ack) == syn counter reject with tcp reset comment "the store is root's alone"
  meta skuid != 0 counter reject with tcp reset comment "the store is root's"
  meta skgid != 0 counter reject with tcp reset comment "the store is not the ingress's"
}

chain to_node {
  type filter hook input priority filter - 10; policy accept;
  iifname != "sp-*" accept
  ip daddr UPSTREAM4 jump refusal
  ip6 daddr UPSTREAM6 jump refusal
  iifname "MESH" jump from_mesh_to_node
  ct state established,related accept
  ip daddr RESOLVER meta l4proto { tcp, udp } th dport 53 accept
  ip daddr RESOLVER icmp type echo-request accept
  ip6 daddr RESOLVER6 ip6 saddr fe80::/10 counter drop comment "who asks has an address of its network"
  ip6 daddr RESOLVER6 meta l4proto { tcp, udp } th dport 53 accept
  ip6 daddr RESOLVER6 icmpv6 type echo-request accept
  meta l4proto { icmp, icmpv6 } jump to_node_ping
  iifname . ip daddr @own_gateway4 meta l4proto { tcp, udp } th dport 53 accept
  iifname . ip6 daddr @own_gateway6 meta l4proto { tcp, udp } th dport 53 accept
  iifname @internal counter drop comment "internal network to node"
  ip daddr @node4 jump to_node_service
  ip6 daddr @node6 jump to_node_service
  counter drop comment "container to node"
}

chain refusal {
  tcp flags & rst == rst ct status & assured == 0 ct original proto-dst @upstreams counter drop comment "tried again"
}

chain to_node_ping {
  iifname . ip daddr @own_gateway4 accept
  iifname . ip6 daddr @own_gateway6 accept
  ip6 daddr { fe80::/10, ff02::/16 } icmpv6 type { echo-request, echo-reply } accept
  ip6 daddr { fe80::/10, ff02::/16 } icmpv6 type nd-neighbor-solicit accept
  ip6 daddr { fe80::/10, ff02::/16 } icmpv6 type { nd-neighbor-advert, nd-router-solicit } accept
  iifname @internal return
  ip daddr @node4 accept
  ip6 daddr @node6 accept
}

chain to_node_service {
  meta l4proto { tcp, udp } th dport 53 accept
  tcp dport { 80, 443 } accept
  udp dport 443 accept
}

chain from_mesh_to_node {
  fib saddr . iif oif missing counter drop comment "not a source of the mesh"
  ct state established,related accept
  ip daddr @mesh_self4 ip saddr @peers4 icmp type echo-request accept
  ip6 daddr @mesh_self6 ip6 saddr @peers6 icmpv6 type echo-request accept
  ip daddr @mesh_self4 ip saddr @peers4 tcp dport @mesh_services accept
  ip6 daddr @mesh_self6 ip6 saddr @peers6 tcp dport @mesh_services accept
  ip daddr @mesh_self4 ip saddr @guests4 tcp dport @join_service accept
  counter drop comment "mesh to node"
}

chain forward_guard {
  type filter hook forward priority filter - 10; policy accept;
  iifname "MESH" jump from_mesh
  oifname "MESH" jump to_mesh
  iifname . oifname @same_network ct status dnat meta mark set meta mark | 0x01000000
  iifname . oifname @same_network accept
  iifname "sp-*" jump from_container
  oifname "sp-*" jump to_container
}

chain from_container {
  oifname != "sp-*" ip daddr @tunnel_only4 counter drop comment "only through the tunnel"
  oifname != "sp-*" ip6 daddr @tunnel_only6 counter drop comment "only through the tunnel"
  iifname @barred ct status & dnat == 0 jump elsewhere
  iifname @internal counter drop comment "internal network"
  fib saddr . iif oif missing counter drop comment "not a source of this network"
  ct state established,related return
  ct status dnat return
  iifname @no_egress counter drop comment "no egress"
  ip daddr { METADATA4 } counter drop comment "metadata"
  ip daddr METADATA4_DNS meta l4proto { tcp, udp } th dport != 53 counter drop comment "metadata"
  ip6 daddr { METADATA6 } counter drop comment "metadata"
  oifname "sp-*" counter drop comment "other network"
  jump elsewhere
  oifname @uplink_bridges return
  meta oifkind "bridge" counter drop comment "Docker's own bridges"
}

chain elsewhere {
  REMOTE_ELSEWHERE
}

chain to_mesh {
  fib saddr . iif oif missing counter drop comment "not a source of this network"
  tcp flags syn tcp option maxseg size set rt mtu
  ct state established,related accept
  REMOTE_RECEIVERS
  counter drop comment "not of this environment"
}

chain from_mesh {
  oifname "MESH" counter drop comment "no transit"
  fib saddr . iif oif missing counter drop comment "not a source of the mesh"
  tcp flags syn tcp option maxseg size set rt mtu
  ct state established,related accept
  REMOTE_SENDERS
  ip saddr @gateways4 ip daddr . tcp dport @web4 accept
  ip6 saddr @gateways6 ip6 daddr . tcp dport @web6 accept
  counter drop comment "not of this environment"
}

chain to_container {
  iifname != "sp-*" fib saddr oifname "sp-*" counter drop comment "its source is elsewhere"
  oifname @internal counter drop comment "internal network"
  ct state established,related accept
  ct status dnat accept
  counter drop comment "not published"
}
"""


def _mask(version: int, length: int) -> str:
    everything = "0.0.0.0" if version == 4 else "::"
    return str(ipaddress.ip_network(f"{everything}/{length}").netmask)


def _lookups(interface: str, field: str, verdict: str = "accept") -> str:
    """One exact look-up per prefix length; they cost a new flow only, for what is established has passed before."""
    lines = []
    for version, lengths in PREFIXES.items():
        family = "ip" if version == 4 else "ip6"
        for length in lengths:
            value = f"{family} {field}"
            if length < _WIDTH[version]:
                value = f"({value} & {_mask(version, length)})"
            lines.append(f"{interface} . {value} @remote{version}_{length} {verdict}")
    return "\n  ".join(lines)


FILTER_CHAINS = (
    FILTER_CHAINS.replace("REMOTE_RECEIVERS", _lookups("iifname", "daddr"))
    .replace("REMOTE_SENDERS", _lookups("oifname", "saddr"))
    .replace("REMOTE_ELSEWHERE", _lookups("iifname", "daddr", 'counter drop comment "only through the tunnel"'))
    .replace("MESH", MESH_LINK)
    .replace("RESOLVER6", RESOLVER6)
    .replace("RESOLVER", RESOLVER)
    .replace("METADATA4_DNS", METADATA_AND_DNS)
    .replace("METADATA4", ", ".join(METADATA4))
    .replace("METADATA6", ", ".join(METADATA6))
    .replace("UPSTREAM4", f"{{ {', '.join(UPSTREAM4)} }}")
    .replace("UPSTREAM6", f"{{ {', '.join(UPSTREAM6)} }}")
)

"""Whether an address lies in any of many ranges: as the standard library says of each."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from stackpad.prefixes import Prefixes

NETS = st.lists(
    st.sampled_from(
        ["0.0.0.0/0", "10.0.0.0/8", "10.192.64.0/18", "10.192.64.7/32", "10.1.2.128/25", "fd00::/8", "::1/128"]
    ),
    max_size=4,
)
ADDRESSES = st.one_of(
    st.sampled_from(
        ["10.192.64.7", "10.192.64.8", "10.192.128.1", "10.1.2.127", "10.1.2.128", "fd00::1", "fe00::1", "::1"]
    ),
    st.ip_addresses().map(str),
)


@given(nets=NETS, text=ADDRESSES)
def test_as_each_of_them_says(nets: list[str], text: str) -> None:
    ranges, address = list(map(ip_network, nets)), ip_address(text)
    assert (address in Prefixes(ranges)) == any(address.version == net.version and address in net for net in ranges)

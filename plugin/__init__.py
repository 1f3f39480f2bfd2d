"""The managed Docker plugin: network driver, IPAM driver and data plane of one node."""

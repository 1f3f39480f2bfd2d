"""The plugin on a real kernel: links, nftables and iptables, each test in a network namespace of its own."""

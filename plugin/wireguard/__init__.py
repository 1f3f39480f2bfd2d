"""WireGuard behind one interface, whichever implementation the node has.

model       what a device and its peers should be, what they are, and the steps between (pure)
calling     at which address each peer is called (pure)
handshakes  when the last ones were, by a clock that does not jump
keys        the node's key pair on disk
link        its link: of the right kind and up
backend     the interface, and which implementation to use
kernel      the kernel's, through generic netlink
userspace   wireguard-go, through its UAPI socket
uapi        the words on that socket (pure)
"""

"""The cluster's store: what is in it, what it means for this node, and what is ours in it.

loop         snapshot, watch, our own records, and the sign of life
view         its content, kept up with each change (pure)
mesh         what the records mean for this node (pure)
publisher    this node's records
rangeclaims  ranges that are one node's each
access       where it is reached
member       the embedded etcd, watched over
membership   what the node keeps of its cluster on its own disk
"""

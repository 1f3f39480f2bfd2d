"""Arithmetic with addresses; pure.

addresses  networks out of blocks, addresses out of pools
blocks     who holds which range, cluster-wide
grounds    which ranges may be a network's
notation   ranges as people write them
"""

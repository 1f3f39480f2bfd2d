"""How a node gets into a cluster.

service  on the node that gave out the token
joiner   the node that comes
guests   who may come
places   where somebody who comes finds room (pure)
tokens   tokens, and what is said meanwhile (pure)
"""

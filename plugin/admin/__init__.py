"""The sockets for people and for the ingress: JSON over HTTP.

interface  what the command line is told, with what the others add
node       the cluster: begin, join, leave, tokens
web        what the ingress says of this node, and is shown of others
upstreams  the table of stable upstreams
ingress    of all that what an ingress may ask, on a socket of its own
gauges     what Prometheus reads
"""

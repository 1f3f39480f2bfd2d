"""Names of the cluster's containers, for containers.

zone       what a name means for whom (pure)
wire       DNS messages: questions in, answers out (pure)
forwarder  everything else, to the host's own servers
server     the sockets
"""

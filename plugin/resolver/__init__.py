"""Names of the cluster's containers, for containers.

zone         what a name means for whom (pure)
wire         DNS messages: questions in, answers out (pure)
table        the zone from the cluster's records (pure)
cache        answers given before (pure)
limits       what one asker may take (pure)
forwarder    everything else, to other servers
hostservers  which those are
server       the sockets
streams      those of TCP
"""

"""The mesh at work: which peers, routes and fences there are, kept so.

loop       keeps tunnel, routes and rules as the records say
calls      what WireGuard is told of each peer: where it is called
renewal    peers whose session has ended begin anew (pure)
paths      how large packets may be
pace       how often to look (pure)
wants      what is wanted of the tunnel, by a member and by a guest (pure)
fence      what stays closed without a tunnel
handover   the other nodes' changes of keys (pure)
sightings  where peers were last heard
roundtrip  how long a packet takes
"""

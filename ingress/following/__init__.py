"""Which web containers run, here and on other nodes, and whether they take visitors: followed, never changed.

running     what is known of both, as one
follower    this node's, from the engine's events
containers  from what the engine says to what we know (pure)
ready       those whose port accepts are up
patience    those that have been in trouble for too long (pure)
health      whether a port accepts
fleet       the cluster, by way of this node's plugin
remote      from and to the records of others (pure)
silent      those of nodes that give no sign of life
absence     whether there is a plugin to wait for (pure)
bursts      how often something costly may be done (pure)
"""

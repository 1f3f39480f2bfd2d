"""This node's part in a cluster, and what runs while it has one.

admission  what a person asks: begin, let in, join, remove, leave
claims     the ranges that are this node's
rotation   new keys
names      what the resolver knows
cluster    begins, joins, leaves, and runs what belongs to it
services   what runs meanwhile: store, join service, metrics in the tunnel
sites      what is served in the tunnel
door       who is let in there
presence   this node as the others see it
wishes     what is wanted of the tunnel
needs      addresses that no network may have
troubles   what a person should know (pure)
"""

"""Stable upstreams: a number for each web service, kept on disk and told to the kernel before Caddy hears of it.

switch     told to the kernel first, and what that leaves for Caddy
numbers    which number each service has, on disk
netsocket  how this node's plugin is told
stable     what kernel and Caddy are told of them (pure)
pace       when Caddy is told of a change (pure)
"""

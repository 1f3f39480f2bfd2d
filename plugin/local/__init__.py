"""What this node's engine and its ingress say of the containers here.

attachments  which names are behind our endpoints
directory    names for ids, and what has gone unheard
webdesk      web services
"""

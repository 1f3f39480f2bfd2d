"""Caddy: what it is told, in its own words, and the one adapter that writes it there.

adapter     the one writer: observes what is there, and puts there what should be
adminapi    its admin API, one request at a time
plannedapi  one that exists in memory only
rehearsal   the next write, shown beforehand
tls         policies of certificates
loadfiles   the operator's certificate files
wildcards   wildcard certificates by DNS
proofroute  what answers proofs on the HTTP port
accesslog   where the access log goes
nameserver  answers Caddy's questions for services by name
named       services that Caddy asks for at each visit (pure)
survey      what is there already, the operator's and ours (pure)
config      the owned object with the table in it (pure)
tablelines  which hosts are a line of the table (pure)
maps        the table as handlers (pure)
options     a route's options (pure)
passing     to whom a request is passed on, and tried again (pure)
replies     what Caddy answers by itself (pure)
logfields   whose visit a line of the log is about (pure)
pages       what a visitor sees when there is nothing else (pure)
"""

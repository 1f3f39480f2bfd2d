"""The engine as the ingress sees it: what it reads, less than the engine says, and nothing it could change.

__main__  the program
proxy     the socket that is served, and the engine behind it
rules     which requests are passed on (pure)
answers   what of an answer is (pure)
"""

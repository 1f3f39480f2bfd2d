"""Who owns which host name, and what proves it: as values, on disk, and as control nodes share it.

claims    on disk
deciding  who gets a name (pure)
ledger    as a value: claims, the operator's word, what was released (pure)
proof     what proves that a domain is somebody's (pure)
shared    as several control nodes share it (pure)
"""

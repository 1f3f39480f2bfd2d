"""Whose a custom domain is, at work.

ownership  the ledger, the search for proofs, the operator's commands
prover     looks for proofs, of one domain after the other
lookups    what is asked outside
queue      which proof is tried next, and when (pure)
"""

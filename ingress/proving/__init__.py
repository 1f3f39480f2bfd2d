"""Whose a custom domain is, at work: what is asked outside, in which order, and the operator's commands about it."""

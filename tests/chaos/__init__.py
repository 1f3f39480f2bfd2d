"""Faults one after another under continuous traffic, and what each of them costs: ``make chaos``."""

"""Hypothesis: whatever is thrown at the plugin, and the laws of its pure parts."""

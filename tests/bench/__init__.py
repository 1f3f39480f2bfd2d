"""How fast it is, next to Docker's own bridge on the same engine in the same run: ratios, medians, spreads."""

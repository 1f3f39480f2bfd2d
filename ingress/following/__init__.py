"""Which web containers run, here and on other nodes, and whether they take visitors: followed, never changed."""

"""What plugin, ingress and the command line share: records, labels, settings, the Docker event source."""

"""The ingress's configuration in real Caddies: the oldest we support and a current one."""

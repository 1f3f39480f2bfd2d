"""The resolver on real sockets, asked with real clients, in front of real servers."""

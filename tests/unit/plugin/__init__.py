"""Of the plugin: pure modules by tables, adapters on real files and sockets."""

"""The plugin, module by module."""

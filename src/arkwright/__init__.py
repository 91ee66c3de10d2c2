"""Arkwright: a daemonless, rootless container image builder with reproducible output by default."""

__version__ = "0.1.0.dev0"

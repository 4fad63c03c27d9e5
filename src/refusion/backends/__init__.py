"""Backends: other engines that run parts of a model."""

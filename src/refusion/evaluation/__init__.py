"""Metrics of restored pictures against clean ones."""

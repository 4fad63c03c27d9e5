"""Restoration of a picture by a model: codecs, tiles, memory, and the restorer that joins them."""

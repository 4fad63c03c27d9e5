"""The specification of a model and its file; this folder also holds the bundled files."""

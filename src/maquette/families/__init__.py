"""The published model families, each a declaration."""

"""Lazy mappings from name to tensor, and everything that wraps them."""

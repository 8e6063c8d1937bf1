"""Both training stages, CLIP, and the data they learn from."""

"""Opening a model and keeping it in memory."""

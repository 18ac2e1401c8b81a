"""Matched image pairs with known pose: stored, read, changed, put into batches."""

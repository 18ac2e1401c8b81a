"""The window form: patches of an image against the patches around them."""

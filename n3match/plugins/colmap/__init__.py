"""COLMAP's files without COLMAP: models, binary and text, and databases."""

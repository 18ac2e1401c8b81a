"""Doubt: whether an estimate is more than chance, and the only explanation."""

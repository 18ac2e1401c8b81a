"""Doubt: whether an estimate is more than chance, and the only explanation.

The threshold of the test against chance is `support.SIGNIFICANT`.
"""

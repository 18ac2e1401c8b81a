"""Filters and estimators compared on pairs with known pose."""

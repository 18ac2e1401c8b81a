"""Training stores made from scenes with known poses."""

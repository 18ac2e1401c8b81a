"""Parts of `n3match train-matcher`."""

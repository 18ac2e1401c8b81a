"""What `n3match benchmark` measures."""

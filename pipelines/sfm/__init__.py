"""Structure from motion with and without the filter."""

"""Generated two-view geometry, without any photograph."""

"""Two photographs: filtered matches, a relative pose, a demonstration."""

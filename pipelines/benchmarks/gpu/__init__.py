"""On a GPU, and what its kernels become without one."""

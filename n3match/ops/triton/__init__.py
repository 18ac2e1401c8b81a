"""The operator by Triton kernels; nothing here is imported unless they can serve."""

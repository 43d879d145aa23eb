"""NT-Xent in Triton: kernels, the tables that configure them, their launches and self-check."""

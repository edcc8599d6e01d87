"""What runs, kernels and experiments leave on disk: their records, read back and compared."""

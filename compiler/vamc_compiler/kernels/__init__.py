"""TIR kernels, one per file; `table` says which op uses which on which target."""

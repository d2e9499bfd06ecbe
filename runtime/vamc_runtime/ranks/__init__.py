"""Tensor parallelism: who is which rank, how ranks exchange tensors, how they are started."""

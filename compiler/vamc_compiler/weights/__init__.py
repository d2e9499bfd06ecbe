"""The weight half: checkpoint to packed, sharded files, tensor by tensor, in bounded memory. No torch in workers."""

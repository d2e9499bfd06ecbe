"""Text in and out of the runtime: tokenizers, streaming detokenisation and chat formats."""

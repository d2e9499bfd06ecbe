"""The text half of a build: the checkpoint's tokenizer as transformers loads it, in files the thin runtime reads."""

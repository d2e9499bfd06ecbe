"""From a modeling file to ONNX: one rank, traced without weights."""

"""ONNX to ONNX: function bodies, simplification, weights as external data."""

"""ONNX to Relax, Relax to TIR, TIR to a shared library: apache-tvm 0.27."""

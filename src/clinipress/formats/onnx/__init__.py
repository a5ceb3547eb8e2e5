"""ONNX files: made by our own passes on ONNX Runtime's quantizer, run by ONNX Runtime."""

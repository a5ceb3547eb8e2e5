"""Files for TensorRT: ONNX by its rules, and a script that builds the engine on the device."""

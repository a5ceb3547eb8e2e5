"""LiteRT files: made by litert-torch and ai-edge-quantizer, run by LiteRT."""

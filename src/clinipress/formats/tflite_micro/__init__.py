"""TFLite Micro: a LiteRT file as a C header, and the arena it needs."""

"""Quantization-aware training: rounding in the forward pass, ranges learnt."""

"""Backbones: loading a language model, training a tokenizer, and the step interface that decoding needs."""

"""Constrained decoding: the trie over an item index, batched beam search on it, exact catalogue scoring."""

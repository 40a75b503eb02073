"""What the encoder of an encoder-decoder reads: users, items and wording as rows of segments."""

"""Images in, logits out, and what looks on."""

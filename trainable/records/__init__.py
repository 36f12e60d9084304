"""A person's own rows: read, checked, tokenised once, kept, split."""

"""From words to token ids: tokenizer, prompt grammar, chunks."""

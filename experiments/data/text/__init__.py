"""Text as tokens: corpora, tokenizers, shards of tokens on disk, and random windows into them."""

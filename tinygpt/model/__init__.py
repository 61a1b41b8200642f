"""The GPT, from token ids to logits.

Read in the order of the chapters: `embeddings`, `positional`, `attention`, `masking`,
`block`, `gpt`; then `kv_cache`, which generation needs. Left out: tokenizers, losses,
files, and faster twins of these modules (see `tinygpt.fast`).
"""

"""A text, its tokenizer, and batches of token ids.

Read `bpe`, `bpe_training` and `tokenizer` for chapter 01, then `corpora` (texts by
name or path) and `dataset` (split and batches). `token_file` and `parallel_encode`
are for texts that do not fit in memory. Left out: anything with parameters.
"""

"""A text, its tokenizer, and batches of token ids.

Read `bpe`, `bpe_training` and `tokenizer` for chapter 01 (`vocabulary_file` is their
file), then `corpora` (texts by name or path; `downloads` fetches two of them) and
`dataset` (split and batches). `token_file`, `parallel_encode` and `joined_tokens` are
for texts that do not fit in memory; `nanogpt` writes them for that program. Left out:
anything with parameters.
"""

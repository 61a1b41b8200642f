"""Other programs' files: Hugging Face's GPT-2, its tokenizer.json, a web page's model.

`huggingface` reads and writes weights, `hf_tokenizer` vocabularies, `web` the one file
that the page's own model reads. GPT-2's own names appear here only.
"""

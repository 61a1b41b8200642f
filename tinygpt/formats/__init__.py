"""Other programs' files: Hugging Face's GPT-2, its tokenizer.json, a web page's model.

`huggingface` reads and writes weights, with `gpt2_config` for the settings,
`model_files` for where the files are and `weight_files` for the tensors in them;
`nanochat` is the other shape that it writes, `hf_tokenizer` is for vocabularies. `web`
writes the one file that the page's own model reads, `page` a whole page around it;
`model_card` says what a model is, `hub` uploads it. GPT-2's own names appear here only.
"""

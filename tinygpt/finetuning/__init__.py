"""A trained model is trained further: on conversations, all of it or only adapters.

Read `chat` (template, loss mask), `chat_data` (parts, packing, batches), `practice`
(copying), `lora` (low-rank adapters), then `run` with all of them; `shop` and `rewards`
say whether an answer is right, `answers` how often. Left out: learning from
preferences.
"""

"""A trained model is trained further: on conversations, all of it or only adapters.

Read `chat` (template, loss mask), `chat_data` (parts, packing, batches), `lora`
(low-rank adapters), then `run` with all three. Left out: learning from preferences.
"""

"""A trained model goes on learning: from conversations, or through adapters.

Read `chat` (template, loss mask, packing), `lora` (low-rank adapters), `run` (both put
together). Left out: learning from preferences.
"""

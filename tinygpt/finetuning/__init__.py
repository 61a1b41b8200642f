"""A trained model is trained further: on conversations, all of it or only adapters.

Read `chat` (template, loss mask, packing), `lora` (low-rank adapters), then `run` with
both. Left out: learning from preferences.
"""

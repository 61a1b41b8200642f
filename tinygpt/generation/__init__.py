"""From logits to text.

Read `sampling` (one next token), `generate` (one after another), `streaming` (text from
ids as they are made), `continuation` (what follows a prompt, once or several times).
Left out: conversations (see `tinygpt.finetuning.chat`).
"""

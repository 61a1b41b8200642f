"""From logits to text.

Read `sampling` (one next token), `generate` (one after another), `streaming` (ids to
text as they come). Left out: conversations (see `tinygpt.finetuning.chat`).
"""

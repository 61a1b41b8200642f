"""A trained model is trained further: on conversations, all of it or only adapters.

Read `chat` (template, loss mask), `chat_data` (parts, packing, batches), `practice`
(copying), `lora` (low-rank adapters), then `run` with all of them; `shop` and `rewards`
say whether an answer is right, `answers` how often; and `policy` (losses), `rollouts`
(answers as batches) and `policy_run` learn from that. Left out: tools, other templates.
"""

"""What the chapters need and a model does not: exercises, figures, tables.

`exercises` checks answers, `notebook` shows shapes and keeps numbers for the prose,
`plotting` and `model_map` draw, `backward` finds gradients without autograd. Nothing
outside the course imports it.
"""

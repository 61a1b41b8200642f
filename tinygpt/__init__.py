"""TinyGPT: a small, real GPT, from the text file to the trained model.

Each module is one step of the course; import what you need from it, for example
`from tinygpt.gpt import GPT`. Importing the package itself does no work.
"""

__version__ = "0.1.0"

"""A language model that answers only from what it is given, offline and always the same, for development and tests.

It speaks OpenAI's protocol (chat completions, streamed or not, and embeddings), so that whatever asks it can ask any
endpoint of that kind.
"""

"""Retrievers and an action for frameworks of language models and of dialogues.

Each module needs its own framework, which an extra brings (`adapterdistill[langchain]`), and
asks a search endpoint through `adapterdistill.client`. A question that no FAQ answers retrieves
nothing.
"""

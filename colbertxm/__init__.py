"""colbertxm: train a modular multilingual late-interaction retriever on English, search in 81 languages."""

__version__ = "0.1.0"

"""aloe: interact to align, from personas to a trained and measured model (arXiv 2410.03642)."""

__version__ = "0.1.0"

"""brokerproof: which delivery promises does a message broker keep, with evidence."""

__version__ = "0.1.0"

"""The in-process broker: for learning, for the docs, and for proving that every check can go red."""

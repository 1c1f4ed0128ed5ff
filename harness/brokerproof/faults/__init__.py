"""Faults, one module each; see ``base`` for the contract."""

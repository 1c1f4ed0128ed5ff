"""Checkers, one module per concept; see ``base`` for the contract and ``index`` for what they share."""

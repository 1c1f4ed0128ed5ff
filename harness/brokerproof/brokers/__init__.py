"""Brokers, one package each: start, stop, address, clients, outcome table, capabilities."""

"""AMQP 0-9-1: where its cases are run, and what their scripts get."""

"""Kafka's cases: what their scripts are handed, and where they are run.

connection.py one connection: requests out, answers in
scene.py      fresh topics, groups and producers; coordinators; configuration
topics.py     a topic: produce, fetch, offsets
producers.py  an idempotent or transactional producer, request by request
groups.py     members of groups, classic, new and share, heartbeat by heartbeat
ground.py     a real cluster
reference.py  a peer in this process, and its mutants (peer/)
"""

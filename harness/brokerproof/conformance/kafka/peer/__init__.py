"""A small Kafka in this process: enough of a broker, or of three, for the cases. Its mutants get one thing wrong each.

    mutants.py       what each mutant gets wrong
    server.py        sockets, framing, which API goes where
    cluster.py       nodes, their states, timers; what the parts share
    log.py           one topic-partition's log: what is let in, what is read
    topics.py        topics: Metadata, Produce, Fetch, ListOffsets, DeleteRecords, configuration
    transactions.py  InitProducerId to EndTxn
    groups.py        classic groups, those of KIP-848, and both in one
    shares.py        share groups

Its timers run on ``scale``: so many seconds of ours for one of a broker's.
"""

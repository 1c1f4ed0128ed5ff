"""RocketMQ's protocol cases: remoting to name servers and brokers, gRPC to the proxy.

codes.py      request and response codes by their names
scene.py      what scripts are handed: connections, topics and groups of their own, the usual requests
proxy.py      the gRPC half of it
place.py      where the peers are, and what can be done to them: the contract of the two grounds
ground.py     a real cluster;  reference.py: peers in this process, with mutants
"""

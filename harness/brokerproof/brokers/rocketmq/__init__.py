"""Apache RocketMQ 5: a name server, brokers, and a gRPC proxy in cluster mode that clients speak to."""

"""Apache Kafka in KRaft mode, driven through confluent-kafka (librdkafka)."""

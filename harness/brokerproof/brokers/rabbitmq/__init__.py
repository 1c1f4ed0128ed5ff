"""RabbitMQ: clusters of one or three nodes, and clients by pika."""

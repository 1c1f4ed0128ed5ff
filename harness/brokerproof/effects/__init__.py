"""The outside world that consumers change: real databases, and the guards that keep an effect from happening twice."""

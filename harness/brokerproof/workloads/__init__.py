"""Workloads: what load processes do in a trial, from the first send to the final read."""

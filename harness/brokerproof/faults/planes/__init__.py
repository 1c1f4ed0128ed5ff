"""What the faults of one plane have in common: a base class each, that resolves, heals and looks."""

"""The process and its reverse: schedule, SDE, meaning of a network's output, samplers, losses."""

"""The networks, the layers that they share, and the protocol that they follow."""

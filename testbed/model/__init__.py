"""The network: zoo, archive, split points, head and tail."""

"""A storage node: segments of many volumes, one hot log, layers, gossip."""

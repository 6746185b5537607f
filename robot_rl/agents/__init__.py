"""What learns: networks, losses, optimisers and the agents made of them. Tensors in, tensors out; no episodes."""

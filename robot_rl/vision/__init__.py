"""How pictures are seen: a frozen trunk, its features cached, and the trained part that makes a latent of them."""

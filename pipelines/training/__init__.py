"""How a match filter and a denoising network are trained."""

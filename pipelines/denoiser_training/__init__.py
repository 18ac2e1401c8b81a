"""How a denoising network is trained; `n3match train-denoiser` is the command."""

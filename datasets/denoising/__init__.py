"""Images and noise to train and to evaluate denoising on."""

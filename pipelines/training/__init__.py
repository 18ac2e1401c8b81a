"""How networks are trained: one run (`run.py`), two tasks (`filter`, `denoiser`)."""

"""The N³ operator without its networks: soft nearest neighbours, and their gradients."""

import torch

from n3match import ops

generator = torch.Generator().manual_seed(0)
points = torch.rand(1, 30, 2, generator=generator)  # (B, N, E), each other's candidates
labels = torch.nn.functional.one_hot(torch.arange(30)).float()[None]  # (B, N, F): who is it?

hard = ops.n3_aggregate(points, points, labels, k=3, exclude_self=True, selection="knn")
print("nearest, second and third of point 0:", hard[0, 0].argmax(-1).tolist())

# The nearer 0 the temperature, the harder the choice. This form of the recursion becomes the hard
# neighbours one after the other ("released", the default, only in the limit: docs/operator.md).
for temperature in (1.0, 1e-2, 1e-4, 1e-6):
    soft = ops.n3_aggregate(
        points, points, labels, k=3, log_temperature=float(torch.tensor(temperature).log()),
        exclude_self=True, recursion="poster",
    )
    shares = (soft * hard).sum(-1).mean((0, 1))
    print(f"t = {temperature:<7g} weight of the true k-th neighbour: {shares.numpy().round(3)}")

# Unlike a hard choice it can be learned: where to look (key) and how sharply (temperature).
key = points.clone().requires_grad_()
log_temperature = torch.full((1, 30, 1), -2.0, requires_grad=True)
z = ops.n3_aggregate(points, key, points, k=3, log_temperature=log_temperature, exclude_self=True)
(z - points[:, :, None]).square().mean().backward()
print(f"gradients: key {key.grad.norm():.3g}, temperature {log_temperature.grad.norm():.3g}")

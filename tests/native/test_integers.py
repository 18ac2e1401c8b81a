"""Products of 16-bit integers against 64-bit arithmetic."""

import pytest
import torch

from n3match import native

pytestmark = pytest.mark.arithmetic

if not native.has_integer_products():
    pytest.skip("no compiled library, or no AVX-512 VNNI", allow_module_level=True)


@pytest.mark.parametrize("rows", [1, 5, 6, 7, 13])
@pytest.mark.parametrize("columns", [64, 192])
@pytest.mark.parametrize("depth", [2, 34, 128])
def test_exact_distances(rows, columns, depth):
    gen = torch.Generator().manual_seed(rows + depth)
    a, b = (
        torch.randint(-2800, 2800, (n, depth), generator=gen, dtype=torch.int16)
        for n in (rows, columns)
    )
    out = torch.full((rows, columns), torch.nan)
    norms = [x.long().square().sum(1).int() for x in (a, b)]
    native.integer_distances(a, native.in_panels(b), *norms, out)
    exact = (a.long()[:, None] - b.long()[None]).square().sum(2)
    assert torch.equal(out, exact.float())


def test_distances_beyond_31_bits():
    a = torch.tensor([[32000, 0], [0, -32000]], dtype=torch.int16)
    b = -a.repeat(32, 1)
    out = torch.empty(2, 64)
    norm = torch.tensor([32000**2], dtype=torch.int32)
    native.integer_distances(a, native.in_panels(b), norm.expand(2).contiguous(),
                             norm.expand(64).contiguous(), out)
    assert out[0, 0] == out[1, 1] == 4.0 * 32000**2
    assert out[0, 1] == 2.0 * 32000**2

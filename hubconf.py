"""For `torch.hub.load`: the match filter with its shipped weights."""

dependencies = ["torch", "numpy", "scipy", "cv2", "safetensors"]


def match_filter(weights: str = "sift"):
    """`n3match.MatchFilter.from_pretrained`: "sift", "sift-cnnet" or a file of weights."""
    from n3match import MatchFilter

    return MatchFilter.from_pretrained(weights)

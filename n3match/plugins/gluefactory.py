"""glue-factory: a filter for `TwoViewPipeline`, chosen by its dotted path.

    model:
      filter:
        name: n3match.plugins.gluefactory

Import this module where glue-factory is installed; n3match itself doesn't need it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

try:
    from gluefactory.models.base_model import BaseModel
except ImportError as error:
    raise ImportError(
        "n3match.plugins.gluefactory needs glue-factory: "
        "pip install git+https://github.com/cvg/glue-factory"
    ) from error

from n3match.nn.match_filter import MatchFilter
from n3match.plugins.batched_matches import filter_batch


class N3MatchFilter(BaseModel):
    """Rejects wrong matches: entries of `matches0` and `matches1` become −1.

    Takes `keypoints{0,1}` (B, N, 2), `matches0` (B, N0), and cameras from `view{0,1}`: its
    `camera`, else a guess from its `image_size` (B, 2) (focal length 1.2 × the longer side).
    `scales{0,1}`, `oris{0,1}` (radians) and `descriptors{0,1}` of SIFT are used where they are
    there.
    Returns `matches{0,1}` and `matching_scores{0,1}` (0 where rejected).

    glue-factory's keypoints and cameras agree on where pixel centres are, so nothing is shifted.
    """

    default_conf: ClassVar[dict[str, Any]] = {
        "weights": "sift",  # shipped weights, or a file of weights
        "trainable": False,
    }
    required_data_keys: ClassVar[list[str]] = [
        "view0", "view1", "keypoints0", "keypoints1", "matches0",
    ]

    def _init(self, conf):
        self.net = MatchFilter.from_pretrained(conf.weights)
        self.are_weights_initialized = True

    def train(self, mode: bool = True):
        """As in PyTorch; without `trainable` the filter stays in eval mode.

        Args:
            mode: True for training, False for eval mode.
        """
        # Normalisation statistics belong to the weights: the filter stays in eval mode.
        return super().train(mode and self.conf.trainable)

    @torch.no_grad()
    def _forward(self, data):
        return filter_batch(self.net, data)

    def loss(self, pred, data):
        """There is none, and glue-factory is told so.

        Args:
            pred, data: not looked at.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError  # glue-factory's sign for a component without a loss


__main_model__ = N3MatchFilter

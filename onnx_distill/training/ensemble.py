"""Several teachers answer as one: their opinion is the mean of their softened probabilities, each with one vote.

    p = mean_k softmax(z_k / T)          z = T log p, so that softmax(z / T) is p

Probabilities are averaged, not logits (Hinton et al. 2015, section 5.3; You et al. 2017): logits mean nothing across networks, each has its own scale, and the
mean of logits is the geometric mean of the probabilities, in which one teacher that rules a class out rules it out for all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_distill.numerics import log_softmax


def agreed_logits(logits: Sequence[np.ndarray], temperature: float) -> np.ndarray:
    """float32 [n, classes] whose softmax at this temperature is the mean of those of `logits`, each [n, classes].

    Those of a single teacher come back as they are. Finite wherever the logits are: log p is taken from logarithms.
    """
    if len(logits) == 1:
        return logits[0]
    each = np.stack([log_softmax(z / temperature) for z in logits])
    most = each.max(axis=0)
    return (temperature * (most + np.log(np.exp(each - most).mean(axis=0)))).astype(np.float32)

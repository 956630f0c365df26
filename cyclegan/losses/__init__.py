"""The losses of the four networks as lists of weighted, named terms.

Groups: `G_A G_B` (adversarial, generators), `D_A D_B` (adversarial, discriminators), `C_A C_B`
(cycle consistency) and, beyond the original's six, `I_A I_B` (identity: a generator should leave
an image of its own target domain as it is; Zhu 2017, section 5.2), `P_A P_B` (pseudo pairs: real B,
degraded, restored) and `H_A` (half scans of A); the last three are explained in cyclegan.degrader.

```
terms         a group's terms, from names to callables, and their weighted sums; truth tables
adversarial   functions of a discriminator's patch map, and gradient penalties
image         functions of two images
own           a user's own loss, `module:Class`
objects       torch's loss objects, as `train(lossFuncs_G_A=[nn.BCELoss()])` passes them
precision     single precision for losses, whatever the networks run in
```

docs/losses.md has the formulas, and says when to use which.
"""

from cyclegan.losses.adversarial import ADVERSARIAL, Adversarial, Role, gradient_penalty
from cyclegan.losses.image import IMAGE
from cyclegan.losses.objects import function_name_of
from cyclegan.losses.terms import (
    GROUPS,
    TRUTH,
    Channels,
    ResolvedTerm,
    Term,
    adversarial_loss,
    by_channels,
    channel_sets,
    check_function,
    default_name,
    functions_for,
    image_loss,
    needs_both,
    only_channels,
    resolve,
    resolve_terms,
    truth_table,
    weighted_sum,
)

__all__ = [
    "ADVERSARIAL",
    "GROUPS",
    "IMAGE",
    "TRUTH",
    "Adversarial",
    "Channels",
    "ResolvedTerm",
    "Role",
    "Term",
    "adversarial_loss",
    "by_channels",
    "channel_sets",
    "check_function",
    "default_name",
    "function_name_of",
    "functions_for",
    "gradient_penalty",
    "image_loss",
    "needs_both",
    "only_channels",
    "resolve",
    "resolve_terms",
    "truth_table",
    "weighted_sum",
]

"""Share the generators' work of a validation out among the ranks of a training.

The first rank validates. Whenever it applies a generator to a batch of patches, the others, which
have the same weights, compute their part of the batch:

```
first    leading(...)   tells which generator, sends the patches, computes its part, gathers
others   following(...) compute theirs until the validation is over
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from cyclegan.numbers import ceil_div
from cyclegan.ranks import Part, Ranks

Generator = Callable[[Tensor], Tensor]


def leading(name: str, generator: Generator, ranks: Ranks) -> Generator:
    """Return the generator for the first rank, which lets the others compute their parts.

    Args:
        name: what the others call it.
    """

    def apply(patches: Tensor) -> Tensor:
        if len(patches) == 1:  # nothing to share
            return generator(patches)
        ranks.tell((name, tuple(patches.shape), patches.dtype))
        return _computed(generator, patches.contiguous(), ranks)

    return generator if ranks.is_alone else apply


def following(generators: Mapping[str, Generator], ranks: Ranks, device: torch.device) -> None:
    """Compute this rank's parts until the first rank says that the validation is over."""
    while (told := ranks.told()) is not None:
        name, shape, dtype = told
        with torch.no_grad():
            _computed(generators[name], torch.empty(shape, dtype=dtype, device=device), ranks)


def over(ranks: Ranks) -> None:
    """Tell the other ranks that the validation is over."""
    if not ranks.is_alone:
        ranks.tell(None)


def _computed(generator: Generator, patches: Tensor, ranks: Ranks) -> Tensor:
    """Return the outputs for all `patches`, which the first rank has, each rank computing a part.

    Ranks without a patch of their own compute the last one, too: all send equally much.
    """
    dist.broadcast(patches, 0)
    count = len(patches)
    mine = Part(ranks.rank, ranks.size).of(torch.arange(count))
    most = ceil_div(count, ranks.size)
    places = torch.cat([mine, torch.full((most - len(mine),), count - 1)]).to(patches.device)
    own = generator(patches[places]).contiguous()
    parts = [torch.empty_like(own) for _ in range(ranks.size)]
    dist.all_gather(parts, own)
    return torch.stack(
        [parts[number % ranks.size][number // ranks.size] for number in range(count)]
    )

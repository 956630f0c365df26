"""Promotion: from a study's best trial to the real training and its registered generator.

```
confirm     train the top trials again with other seeds: which is best on average?
promote     train the chosen trial's configuration for many steps, on the same data
              and with the schedule that the trial's own optimizer found
lineage     register the best generator in MLflow, make it champion if it is the best;
              tags and links between study, trial and promoted training
screening   do the trials' scores rank the results of the full trainings?
```

The command `cyclegan promote` uses this package.
"""

from search.promotion.confirm import Confirmation, confirm
from search.promotion.promote import PromotionResult, promote
from search.promotion.screening import AT_LEAST, Screening, summary

__all__ = [
    "AT_LEAST",
    "Confirmation",
    "PromotionResult",
    "Screening",
    "confirm",
    "promote",
    "summary",
]

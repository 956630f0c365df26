"""From a study's best trial to the real training, its registered generator, and what that teaches.

```
confirm     the top trials again with other seeds: which is best on average?      confirm.py
promote     the chosen trial's configuration, data and schedule, for many steps   promote.py
              what the trial's own optimizer changed is set again                 schedule.py
register    the kept generator in MLflow's registry; champion if it is the best   registering.py
screening   do the trials' scores rank what the full trainings reached?           screening.py
links       tags and descriptions in MLflow, both ways                            links.py
```
`command.py` is the command `cyclegan promote`.
"""

from search.promotion.confirm import Confirmation, confirm
from search.promotion.promote import Promoted, promote
from search.promotion.screening import AT_LEAST, Screening, summary

__all__ = ["AT_LEAST", "Confirmation", "Promoted", "Screening", "confirm", "promote", "summary"]

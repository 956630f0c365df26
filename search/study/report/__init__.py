"""A study as one HTML page: the artifact `report.html` of its MLflow run, and its description.

```
facts     what the page tells, as plain values; evidence: what of it lies in MLflow
page      the document: style, panels, script
head trials curves values importance slices cost      the panels, HTML from facts
note      the best trials as a table with links for the run's description
keeper    keeps both up to date while the study runs; written: the page as a file
```
MLflow shows the page in a sandbox of its own origin: no link leaves it by a plain click, nothing is
loaded, nothing is remembered. All in it is inline, and readable without scripts.
"""

from search.study.report.facts import Evidence, Facts, gather
from search.study.report.page import study_page
from search.study.report.updater import REPORT, Keeper, write_report

__all__ = ["REPORT", "Evidence", "Facts", "Keeper", "gather", "study_page", "write_report"]

"""The report of a study: one HTML page, stored as `report.html` in its MLflow run.

```
facts      the contents of the page as plain values, including what is read from MLflow
page       the document and the order of its panels
head       key figures and settings, above the panels
panels     panels with learning curves, slices, scores by searched value, and importance
tables     panels with the trials and the cost
*.html     the templates; study.js is the script
updater    updates the report and the run's table of best trials; or writes the page to a file
```

MLflow shows the page in a sandbox of its own origin, where a plain click can't follow a link and
the page can neither load nor store anything. So everything is inline, and readable without scripts.
"""

from search.study.report.facts import Evidence, Facts, gather
from search.study.report.page import study_page
from search.study.report.updater import REPORT, ReportUpdater, write_report

__all__ = ["REPORT", "Evidence", "Facts", "ReportUpdater", "gather", "study_page", "write_report"]

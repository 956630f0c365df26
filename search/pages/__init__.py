"""What HTML pages of studies and of comparisons have in common.

```
style     colours and layout; svg: marks, axes and frames in these colours
plot      curves of several runs on one plot, with a legend that hides them
images    pictures as part of a page
```
Everything is inline: a page works from a disk and in MLflow's sandbox, where nothing is loaded.
"""

"""`cyclegan compare`: two to eight runs side by side.

```
command            finds the runs, compares them, prints the result, writes the page
runs               one run with its scores, its outcome, and the validation that counts
parameters         differences of parameters and environment, and a check of the data
cycles enhanced    the images: fixed validation patches of trainings, enhanced volumes
measured           agreement of the images
result text        metrics and all the rest as plain values, and as text for a terminal
page               one HTML document: comparison.html with its script
panels drawings    tables, curves and pictures of the page; panels.html has their markup
plots              curves of several runs, drawn with matplotlib
```
"""

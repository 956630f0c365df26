"""`cyclegan compare`: two to eight runs side by side.

```
command            finds the runs, puts the rest together
runs               one run as it is compared: when it was judged, how it ended
parameters         what differs, and whether the runs were judged on the same data
metrics            what each run reached, and which is best
cycles enhanced    the images: fixed validation patches of trainings, enhanced volumes
measured           how far the images agree
result text        all of it as plain values, and as text for a terminal
page               as one HTML document: panels with tables, drawings with curves and pictures
```
"""

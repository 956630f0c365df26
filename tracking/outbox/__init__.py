"""Deliver a run's records to MLflow, and keep on the disk what the store can't take yet.

```
records    metrics, texts, pictures, files: plain data that a training sends to its run
writer     the thread that writes them, so that a training never waits
outbox     what the store could not take, on the disk until it can
delivery   write what waits in an outbox
```
"""

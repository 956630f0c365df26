"""Enhance volumes with a trained generator, tracked in MLflow: `cyclegan enhance`."""

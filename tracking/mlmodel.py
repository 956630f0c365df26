"""MLflow's own description of a registered generator: the file `MLmodel` beside it.

MLflow's pages show the schema that stands in it. Its `log_model` is not used: it would pickle the
network, and fix the sizes of an example.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAME = "MLmodel"
FLAVOR = "torch_export"
"""No flavor that MLflow loads by itself: `torch.export.load` reads the file."""


def mlmodel(about: Mapping[str, Any], *, run_id: str, folder: str, file: str) -> str:
    """The content of `MLmodel` for the exported generator `file` in a run's `folder`, YAML.

    `about` is what the generator says of itself (`cyclegan.portable`); all of it becomes metadata,
    its input and output the signature, with -1 for batch, Z, Y and X.
    """
    from mlflow.models import Model
    from mlflow.models.signature import ModelSignature

    signature = ModelSignature(inputs=_schema(about["input"]), outputs=_schema(about["output"]))
    model = Model(
        artifact_path=folder,
        run_id=run_id,
        signature=signature,
        flavors={FLAVOR: {"data": file, "torch_version": about["versions"]["torch"]}},
        metadata=dict(about),
    )
    return str(model.to_yaml())


def _schema(image: Mapping[str, Any]) -> Any:
    import numpy as np
    from mlflow.types import Schema, TensorSpec

    kind = np.dtype(image["dtype"])
    return Schema([TensorSpec(kind, tuple(image["shape"]), image["name"])])

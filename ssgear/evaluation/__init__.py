"""Measuring an encoder: the functions that other programs may call (docs/evaluation.md).

from ssgear.evaluation import cka, linear_probe, mean_average_precision
result = linear_probe(train_features, train_labels, test_features, test_labels)
print(result.top1, mean_average_precision(test_features, test_labels), cka(features_a, features_b))

Features are `Rows` [N, F]: a tensor, or a file of any size (`features/rows.py`).
"""

from ssgear.evaluation.generated.fid import frechet_distance
from ssgear.evaluation.generated.kid import kernel_distance
from ssgear.evaluation.probes.finetune import fine_tune
from ssgear.evaluation.probes.knn import knn_accuracy
from ssgear.evaluation.probes.linear import linear_probe
from ssgear.evaluation.probes.result import ProbeResult
from ssgear.evaluation.similarity.cka import cka
from ssgear.evaluation.similarity.opd import opd
from ssgear.evaluation.similarity.retrieval import mean_average_precision

__all__ = [
    "ProbeResult",
    "cka",
    "fine_tune",
    "frechet_distance",
    "kernel_distance",
    "knn_accuracy",
    "linear_probe",
    "mean_average_precision",
    "opd",
]

"""Measuring an encoder: linear probe, kNN, label-free health (docs/math.md 4).

from ssgear.evaluation import linear_probe, knn_accuracy
result = linear_probe(train_features, train_labels, test_features, test_labels)
print(result.top1, knn_accuracy(train_features, train_labels, test_features, test_labels))
"""

from ssgear.evaluation.generated.fid import frechet_distance
from ssgear.evaluation.probes.knn import knn_accuracy
from ssgear.evaluation.probes.linear import linear_probe
from ssgear.evaluation.probes.result import ProbeResult

__all__ = ["ProbeResult", "frechet_distance", "knn_accuracy", "linear_probe"]

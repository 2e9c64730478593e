"""Where a run's figures are shown while it trains: TensorBoard, Ray's metrics, the worker's log, MLflow, W&B."""

from mmkd.telemetry.boards import Board, make_boards
from mmkd.telemetry.ray_metrics import TeacherMetrics

__all__ = ["Board", "TeacherMetrics", "make_boards"]

"""Where runs are logged besides their records. The only door to Weights & Biases, opened when it is needed."""

from parediff.tracking.base import NoTracker, Tracker
from parediff.tracking.lightning_tracker import LightningTracker
from parediff.tracking.upload import SyncReport, sync, sync_command
from parediff.tracking.wandb_tracker import WandbTracker

__all__ = ["LightningTracker", "NoTracker", "SyncReport", "Tracker", "WandbTracker", "sync", "sync_command"]

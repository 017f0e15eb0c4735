"""Fine-tuning: Task 1 on the coarse set, then the same network on the fine set. The paper has no such row.

Command:  python launch.py --config=configs/baselines/finetune.py --workdir=runs/finetune \
              --config.data.coarse.path=COARSE --config.data.fine.path=FINE
No data:  python launch.py --config=configs/baselines/finetune.py:demo --workdir=runs/finetune_demo
Reuse:    --config.teacher=runs/hybrid skips Task 1 and starts from that run's teacher.

The loss is that of MineC2FNet's Task 2 (Eq. 3), from which the row differs in having no teacher beside the student:
nothing is injected and nothing distilled.
"""

from ml_collections import ConfigDict

from configs import fine_hybrid

OVERRIDES = {"fine": {"method": "supervised", "init_from_prior": True}}


def get_config(arg: str = "") -> ConfigDict:
  """`fine_hybrid` with a plain Task 2 that starts from Task 1; `arg` as there."""
  config = fine_hybrid.get_config(arg)
  config.update(OVERRIDES)
  return config

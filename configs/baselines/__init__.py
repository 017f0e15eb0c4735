"""The systems that the paper's Table 1 compares MineC2FNet with.

Most are a dict `OVERRIDES`, what the system states otherwise than `fine_hybrid`: for its own config, and for its row in
`configs/suites/table1.py`.
"""

BCE = dict(bce=1.0, dice=0.0, ssim=0.0, boundary=0.0)

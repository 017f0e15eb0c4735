"""The systems that the paper's Table 1 compares MineC2FNet with."""

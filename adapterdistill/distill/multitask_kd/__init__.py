"""Multi-task distillation (Liu et al., 2019): light students of several teachers."""

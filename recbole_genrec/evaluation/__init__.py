"""Evaluation around RecBole's evaluator: fair ranks, validity, cost."""

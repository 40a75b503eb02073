"""Blank infilling over text and entities (RecSysLLM): history sampling, masks, samples and position ids."""

"""Recommendation by a chat model that nobody tuned: what it is asked, who answers, how answers are read."""

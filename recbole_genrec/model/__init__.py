"""Models: RecBole ``SequentialRecommender``s of ours, and the registry that finds ours and RecBole's."""

"""From atomic files to RecBole's samples: data set and title catalogue."""

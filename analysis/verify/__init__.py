"""Does a run say what its trials gave? Every file, score, table and sentence of it, compared or made again."""

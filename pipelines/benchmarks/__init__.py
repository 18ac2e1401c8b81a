"""What `python -m n3match.pipelines.benchmark` measures."""

"""What `python -m n3match.pipelines.benchmarks.main` measures."""

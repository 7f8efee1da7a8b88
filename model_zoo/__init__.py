"""What anipot knows about the published potentials: ``index.json``, and the sha256 of every one of their files."""

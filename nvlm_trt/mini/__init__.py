"""A small NVLM-D that can read, trained on pictures drawn on the fly: the demo's model and the measure of FP8's cost.

In order: ``tasks`` draws a picture with a question and its answer, ``curriculum`` says which tasks of which difficulty
come when, ``batches`` makes step k's batch from (seed, stage, k) alone, ``model`` learns, ``trainer`` runs and resumes,
``export`` writes the release's file layout.
"""

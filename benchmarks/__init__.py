"""Runnable comparisons: the same work, the same target, taken in turn in one run, ratios quoted.

``python -m benchmarks``, from the checkout, with the extra ``[bench]`` installed. Not part of the wheel.
"""

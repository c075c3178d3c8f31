"""Reads what a run left behind that never saw the doctor: TensorBoard event files and Lightning's metrics.csv.

Nothing here imports torch or lightning, follows a link or unpickles anything.
"""

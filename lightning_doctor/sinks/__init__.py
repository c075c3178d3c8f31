"""Where a report goes: a letter, a notebook, the terminal, ``doctor.json``, and the run's loggers."""

"""The benchmark: task x method x seed, each in a fresh process, to one tidy table and one page.

``tasks`` says what is annotated from what, ``methods`` by whom, ``run`` does it, ``report`` shows it.
"""

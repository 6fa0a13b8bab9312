"""Fuzzing: every reader of hierax meets inputs that nobody wrote, and each input is judged.

    python -m tests.faults.fuzz TARGET [--minutes 5] [--seed N] [--engine auto|atheris|mutations]
    python -m tests.faults.fuzz TARGET --replay FILE [--shrink]

A target (`targets`) has seeds, a mutator that knows the format, and an action that uses the public interface as a
person would. The judge (`judge`) lets only declared errors out, within 2 s of processor time and 512 MB for an input,
and allows no network, no file outside the input's folder and no code from the input. With atheris the
coverage of hierax guides which inputs are kept; without it, answers that were not heard before do.

What is found lies, with the inputs that led there, in out/fuzz/TARGET; an input that once failed belongs, shrunk, in
tests/faults/seeds/TARGET, which every run and `test_fuzz.py` replay.
"""

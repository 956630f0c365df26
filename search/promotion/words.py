"""What a promotion came to, in words: against a plain filter, and against its own trial."""

from __future__ import annotations


def gain_in_words(gain_db: float | None) -> str | None:
    """Say what a kept generator's gain on pseudo pairs means; None if the gain is not known.

    The gain is compared as it is written, so what reads 0.0 dB is none.
    """
    if gain_db is None:
        return None
    gain = round(gain_db, 1)
    if gain > 0:
        return f"On pseudo pairs its error is {gain:.1f} dB below that of the best Gaussian filter."
    if gain < 0:
        return (
            f"On pseudo pairs its error is {-gain:.1f} dB above that of the best Gaussian filter: "
            "a filter does better; do not use this generator without looking."
        )
    return (
        "On pseudo pairs its error is that of the best Gaussian filter, to 0.1 dB: a filter does "
        "as well."
    )


def trial_command(study: str, trial: int) -> str:
    """The command that enhances with the generator that a trial kept."""
    return f"cyclegan enhance VOLUME --model {study}:{trial} --output OUTPUT"


def better_trial(study: str, trial: int, own: float | None, promoted: float | None) -> str | None:
    """Say that the trial's own generator is better than the promoted one; None if it is not.

    Scores are compared as they are written, so that no two are called different that read the same.
    """
    if own is None or (promoted is not None and round(promoted, 2) >= round(own, 2)):
        return None
    other = "has none" if promoted is None else f"has {promoted:.2f}"
    return (
        f"The generator of trial {trial} itself is better: it has a score of {own:.2f}, that of "
        f"the promoted training {other}. To use it: {trial_command(study, trial)}"
    )

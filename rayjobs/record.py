"""Fill a logit bank, so that trainings and sweeps need no teachers: `python rayjobs/record.py --help`."""

from mmkd.bank.record import record
from mmkd.cli import main

ABOUT = """Ask the teachers once about every view that a training with the same settings would show, and keep their
answers in a bank (HOME/banks). Trainings then take --teachers.mode replay, and start no teacher.

views.distinct is the number of views of each clip, by default as many as epochs. Several of these jobs fill one bank
side by side: --teachers.bank_part 1/2 and 2/2. The same command again goes on, or finds that nothing is missing."""

if __name__ == "__main__":
    main("record", ABOUT, record)

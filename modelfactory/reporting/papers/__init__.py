"""Experiments that have something to say when all of their runs are done: papers, told again with a picture and numbers.

A config of the `experiment` group may say `experiment: {figure: NAME}`; once its sweep has ended, the figure of that name reads the
sweep's folder, and leaves paper.png and paper.csv in it.
"""

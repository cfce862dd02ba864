"""Imported in a process whose scores nobody reads: METEOR and the PTB tokeniser without Java."""

from dynrefer.metrics import captions
from dynrefer.metrics.java import Meteor
from tests.metrics.loops import WordOverlap

Meteor.__enter__ = lambda _: WordOverlap()
captions.ptb_tokenize = list

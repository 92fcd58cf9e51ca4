"""What scripts take as arguments, for argparse: an unknown name is an error of one line."""

import argparse
import os

from tests.harness.course import ROOT


def some_of(known):
    """The type of an argument that names some of these, with commas between them."""
    named = {str(one): one for one in known}

    def parse(text):
        names = text.split(",")
        if unknown := [name for name in names if name not in named]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}")
        return [one for name, one in named.items() if name in names]

    return parse


def one_of(known):
    """The type of an argument that names one of these. (`choices` would look at a default, too.)"""
    def parse(text):
        if text not in known:
            raise argparse.ArgumentTypeError(f"unknown: {text}")
        return text

    return parse


def numbers(text):
    """The type of an argument of numbers with commas between them."""
    return [int(number) for number in text.split(",")]


def counts(text):
    """The same, each more than 0."""
    found = numbers(text)
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text}: each must be more than 0")
    return found


def page(text):
    """The type of an argument that is a page of the course, from its top."""
    if text.endswith(".md") and os.path.isfile(os.path.join(ROOT, text)):
        return text
    raise argparse.ArgumentTypeError(f"{text}: there is no such page")

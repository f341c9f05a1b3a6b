"""Greets whom its first argument names, then prints the file that its second argument names."""

import os
import sys

from wit_world import exports


class Run(exports.Run):
    def run(self) -> None:
        _, name, file = sys.argv
        print(f"{os.environ.get('GREETING', 'Hello')} {name}, from Python")
        with open(file) as text:
            sys.stdout.write(text.read())

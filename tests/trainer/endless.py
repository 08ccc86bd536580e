"""A process of an export that takes for ever."""

import threading

from trainer import lifeline

if __name__ == "__main__":
    lifeline.hold()
    threading.Event().wait()

"""Renders a chat template in a process of its own, which may be stopped: see trial.py.

Reads one job (JSON) from stdin: template, chats, settings, seconds, memory, characters. Imports
nothing of ours, so that it starts fast.
"""

import json
import os
import resource
import signal
import sys


def main() -> int:
    """0: every chat was rendered, or refused by the template itself; 3: too much was made."""
    from jinja2.exceptions import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    broken = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError)
    job = json.load(sys.stdin)
    _limit(job["seconds"], job["memory"])
    print("ready", flush=True)
    try:
        for chat in job["chats"]:
            for opened in (True, False):
                try:
                    texts, _ = render_jinja_template(
                        [chat], chat_template=job["template"], add_generation_prompt=opened,
                        **job["settings"],
                    )  # fmt: skip
                except broken:
                    continue  # the render in earnest says the same, with its reason
                if len(texts[0]) > job["characters"]:
                    return 3
    except (MemoryError, RecursionError):
        return 3
    return 0


def _limit(seconds: float, memory: int) -> None:
    """Allow this process so much more than it has used until now."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    top = int(used.ru_utime + used.ru_stime + seconds) + 2
    _lower(resource.RLIMIT_CPU, top)
    signal.setitimer(signal.ITIMER_PROF, seconds)  # to the second; ends the process, too
    _lower(resource.RLIMIT_CORE, 0)
    try:
        with open("/proc/self/statm") as file:
            mapped = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return  # no Linux: time alone is bounded
    _lower(resource.RLIMIT_AS, mapped + memory)


def _lower(kind: int, value: int) -> None:
    """Set a limit, or keep a lower one that the process was started under."""
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


if __name__ == "__main__":
    sys.exit(main())

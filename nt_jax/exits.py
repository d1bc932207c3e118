"""Exit codes of every command; docs/reliability.md shows this table."""

DONE = 0
MISTAKE = 2
UNFINISHED = 3
BUG = 70
LOST = 75
HUNG_UP, INTERRUPTED, READER_GONE, TERMINATED = 129, 130, 141, 143  # 128 + the number of the signal

EXITS = {
    DONE: "done",
    MISTAKE: "an error that you can act on: its line says what, where, and what to do",
    UNFINISHED: "done but for prompts or judge calls that failed: the same command repeats those; "
    "of doctor: the model does not fit",
    BUG: "a bug of ours: the traceback lies in a file that the line names",
    LOST: "of several processes one is gone: repeat the command, with as many as you like",
    HUNG_UP: "hung up (SIGHUP): what is finished is kept",
    INTERRUPTED: "interrupted (SIGINT, Ctrl-C): what is finished is kept",
    READER_GONE: "whoever read the output went away, as head does",
    TERMINATED: "terminated (SIGTERM): what is finished is kept",
}

"""Call stacks of a running program, taken by perf, with the functions that the compiler inlined into others."""

import contextlib
import os
import re
import subprocess

from . import machine

# As much of the stack as perf copies with each event, in bytes: deep enough for the poll of a request.
STACK_BYTES = 16384
# What waits for perf to write it; where perf gets too little time, events are lost beyond it.
BUFFER = "256M"


class EventsLost(RuntimeError):
    """perf got too little time to write all that it saw."""


class Recording:
    """perf record on one thread or process; records only between `begin` and `end`."""

    def __init__(self, file, target, events):
        self.file = file
        take, control = os.pipe()
        acks, give = os.pipe()
        command = ["perf", "record", "-q", "-m", BUFFER, "-D", "-1", "--control", f"fd:{take},{give}", "-o", file]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen([*command, *target, *events], pass_fds=(take, give), **quiet)
        os.close(take)
        os.close(give)
        self.control, self.acks = os.fdopen(control, "w"), os.fdopen(acks)

    def tell(self, order):
        self.control.write(f"{order}\n")
        self.control.flush()
        if "ack" not in self.acks.readline():  # perf ends each with a NUL, too
            raise RuntimeError(f"perf record: {self.process.communicate()[1].decode()[-500:]}")

    def begin(self):
        self.tell("enable")

    def end(self):
        self.tell("disable")

    def close(self):
        """Ends perf, which writes its file now."""
        if self.process.poll() is None:
            self.process.terminate()
        self.process.communicate()
        self.control.close()
        self.acks.close()


@contextlib.contextmanager
def recording(file, target, events):
    one = Recording(file, target, events)
    try:
        yield one
    finally:
        one.close()


def samples(file):
    """(event, its printed arguments, [(address, symbol, object)] innermost first) for each event of a recording."""
    fields = "event,trace,ip,sym,dso"
    command = ["perf", "script", "-i", file, "-F", fields, "--no-inline", "--no-demangle", "--show-lost-events"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "PERF_RECORD_LOST" in text:
        raise EventsLost("perf lost events: what is left is no count")
    event = None
    for line in text.split("\n"):
        frame = re.match(r"\s+([0-9a-f]+) (.*) \((.*)\)$", line)
        head = re.match(r"\s*(\S+?):\s?(.*)", line)
        if frame and event:
            event[2].append((int(frame[1], 16), frame[2], frame[3]))
        elif head:
            if event:
                yield event
            event = head[1], head[2], []
    if event:
        yield event


class Symbols:
    """Names and source lines of addresses in a program; an address that many functions share gives all of them."""

    def __init__(self, program):
        self.program = os.path.realpath(program)
        self.names = {}
        headers = subprocess.run(["readelf", "-lW", self.program], capture_output=True, text=True, check=True).stdout
        offset, address = re.search(r"LOAD +(0x\w+) (0x\w+) .* R E ", headers).groups()
        # perf gives the place in the file, addr2line asks for the place in memory
        self.shift = int(address, 16) - int(offset, 16)

    def load(self, stacks):
        """Reads the names of every address of `stacks` at once: each start of addr2line reads the whole program."""
        wanted = {self.asked(depth, frame) for stack in stacks for depth, frame in enumerate(stack) if self.own(frame)}
        wanted = sorted(wanted - self.names.keys())
        asked = "".join(f"{address:#x}\n" for address in wanted)
        command = ["addr2line", "-C", "-a", "-f", "-i", "-e", self.program]
        lines = subprocess.run(command, input=asked, capture_output=True, text=True, check=True).stdout.split("\n")
        found = None
        for line, after in zip(lines, lines[1:]):
            if line.startswith("0x"):
                found = self.names.setdefault(int(line, 16), [])
                named = False
            elif found is not None:
                named = not named
                if named:
                    found.append((plain_name(line), short_path(after)))

    def own(self, frame):
        return frame[2] == self.program

    def asked(self, depth, frame):
        """Where to look: the call itself, one byte before the address to return to."""
        return frame[0] + self.shift - (1 if depth else 0)

    def named(self, stack):
        """The stack as (function, source line), innermost first, inlined functions included."""
        for depth, frame in enumerate(stack):
            if self.own(frame):
                yield from self.names[self.asked(depth, frame)]
            else:
                yield frame[1].split("+")[0], ""


def plain_name(name):
    """A function's name without the compiler's hash."""
    return re.sub(r"::h[0-9a-f]{16}$", "", name)


def short_path(line):
    """A source line: of our own files relative to the repository, of others the last three parts."""
    line = line.split(" (")[0]
    own = re.search(r"(?:^|/)(src/[^:]*):\d+$", line)
    if own and not re.search(r"/rustc/|/registry/", line) and os.path.exists(os.path.join(machine.ROOT, own[1])):
        return line[own.start(1) :]
    return "/".join(["…", *line.split("/")[-3:]])

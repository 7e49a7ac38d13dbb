"""A flame graph of the core's thread under load: where a request's time goes, kernel and user, as one SVG."""

import html
import os
import re
import threading

from . import allocations, machine, measure, stacks

HERTZ = 1499
CONNECTIONS = 64
# Where a stack begins in the picture: below are only threads and executors, and not every stack is unwound to its end.
ROOTS = ["accept::serve (shard/accept.rs)", "run (reactor/core.rs)"]
# Steps of the standard library that say nothing of their own.
STEPS = re.compile(r"(do_call|call_once|catch_unwind|poll|call_mut|with|try_with|\[unknown\])$")
# Of the picture, in pixels. What is narrower than NARROWEST is left out, so that the file stays small.
WIDTH, ROW, TOP, NARROWEST = 1200, 16, 52, 1.2
LETTER = 6.6
COLOURS = {"kernel": "#f2a65a", "ringway": "#7fb069", "other": "#c9c5ba"}


class Frame:
    """A function reached by one road from the root: how many samples passed it, and what it called."""

    def __init__(self):
        self.count, self.calls = 0, {}

    def add(self, names):
        """Counts one sample, whose functions are named from the root inward."""
        self.count += 1
        frame = self
        for name in names:
            frame = frame.calls.setdefault(name, Frame())
            frame.count += 1


def labels(symbols, depth, frame):
    """(name, kind) of the functions at one frame, the outermost first."""
    if symbols.own(frame):
        for name, line in reversed(symbols.names[symbols.asked(depth, frame)]):
            file = line.rsplit(":", 1)[0]
            kind = "ringway" if file.startswith("src/") else "other"
            where = f" ({file[4:]})" if kind == "ringway" else ""
            yield short(name) + where, kind
    else:
        yield frame[1].split("+")[0], "kernel" if "[" in frame[2] else "other"


def short(name):
    """A function's name without type arguments, its last two parts."""
    name = re.sub(r"^<(.+) as .+>::", r"\1::", name)
    while "<" in name and (bare := re.sub(r"<[^<>]*>", "", name)) != name:
        name = bare
    parts = [part for part in name.split("::") if not part.startswith("{")]
    return "::".join(parts[-2:]) or ("async" if "async" in name else "closure")


def road(symbols, stack):
    """The functions of a stack from its root inward, without what every stack has in common."""
    frames = reversed(list(enumerate(stack)))
    names = [name for depth, frame in frames for name in labels(symbols, depth, frame) if not STEPS.match(name[0])]
    for root in ROOTS:
        if (root, "ringway") in names:
            names = names[names.index((root, "ringway")) :]
            break
    return [name for at, name in enumerate(names) if at == 0 or name != names[at - 1]]


def folded(symbols, found):
    """The samples as a tree."""
    symbols.load([stack for _, _, stack in found])
    root = Frame()
    for _, _, stack in found:
        root.add(road(symbols, stack))
    return root


def svg(root, title):
    """The tree as a picture: the root at the bottom, the width of a frame its share of the samples."""
    scale, boxes, deepest = WIDTH / root.count, [], 0

    def place(frame, left, depth):
        nonlocal deepest
        deepest = max(deepest, depth)
        for (name, kind), call in sorted(frame.calls.items()):
            if call.count * scale >= NARROWEST:
                boxes.append((left, depth, call.count, name, kind))
                place(call, left, depth + 1)
            left += call.count * scale

    place(root, 0, 0)
    height = TOP + deepest * ROW
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"',
        ' font-family="monospace" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="8" y="18" font-size="14">{html.escape(title)}</text>',
    ]
    for at, (kind, colour) in enumerate(COLOURS.items()):
        out.append(f'<rect x="{8 + 90 * at}" y="28" width="10" height="10" fill="{colour}"/>')
        out.append(f'<text x="{22 + 90 * at}" y="37">{kind}</text>')
    for left, depth, count, name, kind in boxes:
        width, y = count * scale, height - (depth + 1) * ROW
        fits = int(width / LETTER)
        text = html.escape(name if len(name) <= fits else name[: fits - 1] + "…") if fits >= 3 else ""
        box = f'<rect x="{left:.1f}" y="{y}" width="{width - 0.4:.1f}" height="{ROW - 1}" fill="{COLOURS[kind]}"/>'
        word = f'<text x="{left + 2:.1f}" y="{y + 11}">{text}</text>' if text else ""
        share = f"{100 * count / root.count:.1f} %"
        out.append(f"<g><title>{html.escape(name)}: {share}</title>{box}{word}</g>")
    return "\n".join([*out, "</svg>", ""])


def flame(house, options):
    """Records the gateway under plain load and writes the picture; gives the shares of kernel and user code."""
    machine.need(["perf", "addr2line"])
    gateway = house.ringway()
    house.route(gateway)
    gateway.wait_answers("/")
    measure.wrk(gateway.url(), CONNECTIONS, 1)
    file = os.path.join(house.directory, "flame.data")
    events = ["-e", "cpu-clock", "-F", str(HERTZ), "--call-graph", f"dwarf,{stacks.STACK_BYTES}"]
    load = threading.Thread(target=measure.wrk, args=(gateway.url(), CONNECTIONS, options.seconds))
    with stacks.recording(file, ["-t", allocations.core_thread(gateway)], events) as recording:
        recording.begin()
        load.start()
        load.join()
        recording.end()
    found = [sample for sample in stacks.samples(file) if sample[2]]
    root = folded(stacks.Symbols(f"/proc/{gateway.process.pid}/exe"), found)
    with open(house.log(gateway.name)) as log:
        driver = re.search(r"reactor +(\w+)", log.read())[1]
    title = f"ringway, plain, {CONNECTIONS} connections, {driver}: {root.count} samples of the core's thread"
    with open(options.svg, "w") as picture:
        picture.write(svg(root, title))
    house.stop(gateway)
    kernel = sum("[" in stack[0][2] for _, _, stack in found)
    shares = {"kernel": round(kernel / len(found), 3), "user": round(1 - kernel / len(found), 3)}
    row = {"case": "flame", "peer": "ringway", "conns": CONNECTIONS, "samples": len(found), **shares}
    return [{**row, "svg": options.svg}]

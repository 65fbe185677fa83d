"""figures.md: the tables."""

import statistics

MAXIMUM = 0


def part(values, of):
    """The value that `of` percent of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * of / 100))]


def middle(values, digits=2):
    """The median as a number, and with its quartiles as a text; nothing of nothing."""
    if not values:
        return None
    number = statistics.median(values)
    return number, f"{number:.{digits}f} ({part(values, 25):.{digits}f} to {part(values, 75):.{digits}f})"


def slow(values, digits=2):
    if not values:
        return None
    number = part(values, 99)
    return number, f"{number:.{digits}f}"


def cells(figures, key, kind, rate):
    """The floods of one kind, in each round."""
    wanted = (key, kind, rate)
    return [cell for cell in figures["floods"] if (cell["system"], cell["kind"], cell["rate"]) == wanted]


def opened(floods):
    """How many knocks opened in each round: no number, as there is no ratio of them."""
    if not floods:
        return None
    counts = ", ".join(str(len(cell["open_ms"])) for cell in floods)
    return None, f"{counts} of {floods[0]['knocks']}"


def slowest(floods):
    return slow([time for cell in floods for time in cell["open_ms"]])


def cpu(floods):
    if not floods:
        return None
    costs = [cell["cpu_s_per_million"] for cell in floods]
    return statistics.median(costs), " and ".join(f"{cost:.3f}" for cost in costs)


def rate(figures):
    """What the sender's maximum was."""
    rates = [cell["sent_per_second"] for cell in figures["floods"] if cell["rate"] == MAXIMUM]
    return f"{min(rates):,.0f} to {max(rates):,.0f}"


def table(title, columns, rows):
    """Columns are labels by key, ours first and a peer last; the last column compares these two."""
    keys, labels = list(columns), list(columns.values())
    lines = [f"| {title} | {' | '.join(labels)} | {labels[-1]} / {labels[0]} | wanted |"]
    lines.append("|---" * (len(keys) + 3) + "|")
    for name, measure, wanted in rows:
        found = [measure(key) for key in keys]
        if not any(found):
            continue
        ours, theirs = (one[0] if one else None for one in (found[0], found[-1]))
        ratio = f"{theirs / ours:.1f}" if ours and theirs else ""
        words = [one[1] if one else "" for one in found]
        lines.append(f"| {name} | {' | '.join(words)} | {ratio} | {wanted} |")
    return "\n".join(lines)


def sealed(figures):
    latency, programs = figures["latency"], figures["programs"]
    rows = [
        ("knock to open port, ms", lambda key: middle(latency[key]["open_ms"]), "0.6"),
        ("the same, 99 of 100, ms", lambda key: slow(latency[key]["open_ms"]), "1.2"),
        ("exec of the client program to open port, ms", lambda key: middle(programs[key]), "2"),
        ("knock to receipt, ms", lambda key: middle(latency[key]["receipt_ms"]), "0.9"),
    ]
    kinds = {
        "mixed": "random and flipped",
        "copied": "copies of one genuine packet",
        "used": "used packets",
        "client": "an enrolled client at full rate",
    }
    for kind, words in kinds.items():
        floods = lambda key, kind=kind: cells(figures, key, kind, MAXIMUM)  # noqa: E731
        rows.append((f"knocks at the maximum: {words}", lambda key, floods=floods: opened(floods(key)), "40"))
        rows.append(("the slowest of them, 99 of 100, ms", lambda key, floods=floods: slowest(floods(key)), "5"))
    rows += processor_time(figures, "mixed", "0.05, 2 without filter")
    rows += processor_time(figures, "mixed", "the same", "-crowd", ", 100,000 clients")
    return rows + at_rest(figures)


def classic(figures):
    latency, programs = figures["latency"], figures["programs"]
    steps = lambda key: cells(figures, key, "first steps", MAXIMUM)  # noqa: E731
    return [
        ("last step to open port, ms", lambda key: middle(latency[key]["open_ms"]), ""),
        ("the same, 99 of 100, ms", lambda key: slow(latency[key]["open_ms"]), ""),
        ("exec of the client program to open port, ms", lambda key: middle(programs[key]), ""),
        ("knocks at the maximum of first steps", lambda key: opened(steps(key)), "40, 38 as knockd"),
        *processor_time(figures, "first steps", "2"),
        *at_rest(figures),
    ]


def at_rest(figures):
    def number(measure, digits):
        return lambda key: (value := measure(key), f"{value:.{digits}f}")

    idle = figures["idle"]
    return [
        ("wake-ups a second, idle", number(lambda key: idle[key]["wake_ups"], 1), "only what is due"),
        ("memory, idle, MB", number(lambda key: idle[key]["kib"] / 1024, 1), ""),
    ]


def processor_time(figures, kind, wanted, suffix="", words=""):
    for number, name in ((50_000, "50,000 a second"), (MAXIMUM, "the maximum")):
        floods = lambda key, number=number: cells(figures, key + suffix, kind, number)  # noqa: E731
        yield f"CPU of a million junk packets at {name}{words}, s", lambda key, floods=floods: cpu(floods(key)), wanted


def chosen(figures, *keys):
    return {key: figures["labels"][key] for key in keys if key in figures["labels"]}


def bystanders(figures):
    """Minima of packets: whatever else the machine does only adds to them."""
    names = {
        "nobody": "no daemon",
        "guard": "the guard alone",
        "capture": "the capture socket alone",
        "capture-unfiltered": "the same, no kernel filter",
    }
    found = figures["bystanders"]
    first = min(found["nobody"]["packet_ns"])
    lines = ["| bystanders | a small UDP packet, ns | more | TCP, Gbit/s |", "|---|---|---|---|"]
    for key in (key for key in names if key in found):
        least = min(found[key]["packet_ns"])
        tcp = middle(found[key]["tcp_gbps"], 1)[1]
        lines.append(f"| {names[key]} | {least:.0f} | {least - first:+.0f} | {tcp} |")
    return "\n".join(lines)


def growing(title, found, unit):
    """Times by a number of something."""
    numbers = list(dict.fromkeys(number for times in found.values() for number in times))
    lines = [f"| {title} | {' | '.join(f'{int(number):,}' for number in numbers)} |", "|---" * (len(numbers) + 1) + "|"]
    for key, times in found.items():
        words = []
        for number in numbers:
            done = [time for time in times.get(number, []) if time]
            words.append(middle(done, unit)[1] if done else "more than 20 s")
        lines.append(f"| {key} | {' | '.join(words)} |")
    return "\n".join(lines)


def sizes(figures):
    wanted = {"toctocd": "under 4", "toctoc": "under 2"}
    lines = ["| program | MB | wanted |", "|---|---|---|"]
    lines += [f"| {name} | {size / 1e6:.2f} | {wanted.get(name, '')} |" for name, size in figures["sizes"].items()]
    return "\n".join(lines)


def page(figures):
    machine = figures["machine"]
    before, after = figures["load"]
    tables = [
        table("sealed knocks", chosen(figures, "toctoc", "toctoc-unfiltered", "fwknopd"), sealed(figures)),
        table("classic knocks", chosen(figures, "door", "door-unfiltered", "as-knockd", "knockd"), classic(figures)),
        bystanders(figures),
        growing("knock to open port beside so many live grants, ms", figures["grants"], 2),
        growing("start until a knock opens, by enrolled clients, ms", figures["starts"], 0),
        sizes(figures),
    ]
    command = "bench-quick" if figures["quick"] else "bench"
    return f"""# Figures

Written by `make {command}` and explained in [benchmarks.md](../benchmarks.md). Times are medians, with the quartiles in brackets.

* {machine["date"]}, {machine["commit"]}, {figures["seconds"]} s, load average {before[0]} at the start and {after[0]} at the end
* {machine["processors"]} processors ({machine["model"]}), Linux {machine["kernel"]}
* state on {machine["disk"]}, where a sync takes {machine["sync_ms"]:.2f} ms
* the sender's maximum: {rate(figures)} packets a second
* toctoc's filter in the kernel: {"in use" if figures["filtered"] else "this machine or this version has none"}

""" + "\n\n".join(tables) + "\n"

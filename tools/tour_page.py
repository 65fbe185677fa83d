"""What `tools/tour` has seen, as Markdown and as a picture. What differs from run to run, such as
keys and times, is replaced by fixed examples."""

import datetime
import html
import random
import re
import zlib

# The day of the story; days before and after it keep their distance.
DAY = datetime.date(2027, 3, 1)
TIME = "09:14:27"


class Examples:
    """Fixed examples in the place of keys: each key has its own, whatever it is in this run."""

    def __init__(self, seed):
        self.known, self.random = {}, random.Random(seed)

    def of(self, key):
        if key not in self.known:
            letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
            self.known[key] = "".join(self.random.choice(letters) for _ in key)
        return self.known[key]

    def id(self, key):
        """The same for the id of a knock: eight digits."""
        if key not in self.known:
            self.known[key] = f"{zlib.crc32(f'knock {len(self.known)}'.encode()):08x}"
        return self.known[key]


def day(match):
    today = datetime.datetime.now(datetime.timezone.utc).date()
    distance = datetime.date.fromisoformat(match[0]) - today
    return (DAY + distance).isoformat()


def stable(text, examples):
    """The text with examples in place of what differs from run to run."""
    text = re.sub(r"\b\d{4}-\d\d-\d\d(?!\d)", day, text)
    text = re.sub(r"(?<!\d)\d\d:\d\d:\d\d(?!\d)", TIME, text)
    text = re.sub(r"(\d{4}-\d\d-\d\d) \d\d:\d\d\b", rf"\1 {TIME[:5]}", text)
    text = re.sub(r"(SHA256:|AAAAC3NzaC1lZDI1NTE5AAAAI)([\w+/]{43})",
                  lambda key: key[1] + examples.of(key[2]), text)
    text = re.sub(r"toctoc:[A-Z0-9]{60,}", "toctoc:AEAAAAAAABVQ3NLTU7XYYZBFM2T4XRYVVEME...", text)
    text = re.sub(r"\bids? [0-9a-f]{8}(, [0-9a-f]{8})*",
                  lambda ids: re.sub("[0-9a-f]{8}", lambda one: examples.id(one[0]), ids[0]), text)
    text = re.sub(r"\bpid \d+", "pid 812", text)
    text = re.sub(r"answers on TCP port \d+", "answers on TCP port 443", text)
    text = re.sub(r"OpenSSH_[^`\n]*", "OpenSSH_9.2p1", text)
    text = re.sub(r"[ \d]{4} s(?=  \d\d:\d\d:\d\d)", "  30 s", text)
    text = re.sub(r"\b\d+(?= packets| passed| read)", "9", text)
    return text


def markdown(page):
    """`page` is a list of texts and of lists of what was typed and shown."""
    parts = []
    for part in page:
        if not isinstance(part, str):
            part = "```console\n" + "\n\n".join(part) + "\n```"
        parts.append(part)
    return "\n\n".join(parts) + "\n"


def picture(lines, title):
    """Lines of a terminal as SVG. It is dark, so that it can be read on a light page and on a dark
    one."""
    width, height = 660, 22 + 17 * len(lines)
    fonts = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
           f'width="{width}" height="{height}" font-family="{fonts}" font-size="13">',
           f"  <title>{html.escape(title)}</title>",
           "  <!-- Made by `make tour`; do not edit. -->",
           f'  <rect x="1" y="1" width="{width - 2}" height="{height - 2}" rx="8" fill="#1d2330" '
           'stroke="#5b657a"/>']
    for number, line in enumerate(lines):
        text = html.escape(line)
        prompt = re.match(r"\w+@\w+:~[#$] ?", line)
        if prompt:
            colour = "#f2a65a" if "#" in prompt[0] else "#7fc8a9"
            text = (f'<tspan fill="{colour}">{prompt[0]}</tspan><tspan font-weight="bold" '
                    f'fill="#fff">{html.escape(line[prompt.end():])}</tspan>')
        place = f'x="14" y="{27 + 17 * number}"'
        out.append(f'  <text {place} fill="#c9d1de" xml:space="preserve">{text}</text>')
    return "\n".join(out) + "\n</svg>\n"

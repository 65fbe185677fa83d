#!/usr/bin/python3
"""Uses the window as a screen reader does: by the names, roles and announcements that it gives to
assistive technology (AT-SPI), and without a keyboard. Ends with 1 if something is missing.
usage: dbus-run-session -- screen_reader.py COMMAND...   (the window; its profile's service is ssh)
"""
import subprocess
import sys
import time

import gi

gi.require_version("Atspi", "2.0")
from gi.repository import Atspi, Gio, GLib  # noqa: E402

PATIENCE = 60
# What a person can use.
USABLE = {
    Atspi.Role.PUSH_BUTTON,
    Atspi.Role.COMBO_BOX,
    Atspi.Role.ENTRY,
    Atspi.Role.PASSWORD_TEXT,
    Atspi.Role.PROGRESS_BAR,
}
announced = []


def until(what, find):
    """What `find` finds; ends the program if it finds nothing in time."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        while GLib.MainContext.default().iteration(False):
            pass
        try:
            if found := find():
                return found
        except GLib.Error:  # It has gone meanwhile.
            pass
        time.sleep(0.05)
    sys.exit(f"no {what}; announced: {announced}; there is: {[shown(each) for each in all_below()]}")


def all_below(parent=None):
    """Every object of the window."""
    for index in range((parent or Atspi.get_desktop(0)).get_child_count()):
        child = (parent or Atspi.get_desktop(0)).get_child_at_index(index)
        if child is not None:
            yield child
            yield from all_below(child)


def shown(each):
    return f"{each.get_role_name()} `{each.get_name()}`"


def named(role, name):
    def find():
        return next((e for e in all_below() if e.get_role() == role and e.get_name() == name), None)

    return find


def has_focus(each):
    return each.get_state_set().contains(Atspi.StateType.FOCUSED)


def heard(text):
    return lambda: any(text in each for each in announced)


# What a desktop sets when a screen reader starts.
session = Gio.bus_get_sync(Gio.BusType.SESSION)
for name in ["IsEnabled", "ScreenReaderEnabled"]:
    value = GLib.Variant("(ssv)", ("org.a11y.Status", name, GLib.Variant("b", True)))
    where = ["org.a11y.Bus", "/org/a11y/bus", "org.freedesktop.DBus.Properties", "Set"]
    session.call_sync(*where, value, None, Gio.DBusCallFlags.NONE, -1, None)
Atspi.init()
listener = Atspi.EventListener.new(lambda event: announced.append(str(event.any_data)))
window = None
try:
    until("bus for assistive technology", lambda: listener.register("object:announcement"))
    window = subprocess.Popen(sys.argv[1:])
    knock = until("button `Knock`", named(Atspi.Role.PUSH_BUTTON, "Knock"))
    until("name of the window", named(Atspi.Role.FRAME, "toctoc"))
    usable = [each for each in all_below() if each.get_role() in USABLE]
    print("it has:", ", ".join(shown(each) for each in usable))
    nameless = [shown(each) for each in usable if not each.get_name()]
    if nameless:
        sys.exit(f"without a name: {nameless}")
    # There is no window manager.
    search = ["xdotool", "search", "--onlyvisible", "--name", "toctoc$", "windowfocus", "--sync"]
    subprocess.run(search, check=True)
    until("keyboard on `Knock`", lambda: has_focus(knock))
    knock.do_action(0)
    until("announcement of the grant", heard("ssh is open"))
    connect = until("button `Connect`", named(Atspi.Role.PUSH_BUTTON, "Connect"))
    until("keyboard on `Connect`", lambda: has_focus(connect))
    bar = until("bar", lambda: next((e for e in all_below() if e.get_role() == Atspi.Role.PROGRESS_BAR), None))
    print("the bar:", shown(bar))
    until("announcement of its end", heard("The grant has ended"))
    print("it said:", "; ".join(announced))
finally:
    if window is not None:
        window.terminate()

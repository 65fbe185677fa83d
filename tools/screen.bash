# A screen without a monitor, and a keyboard for the window on it; Windows in the form of Wine. For
# tools/window-test and tools/story, which source this file and set $dir, a folder that they remove.
# shellcheck shell=bash
# shellcheck disable=SC2154  # dir is theirs
export LC_ALL=C WINEDEBUG=-all WINEDLLOVERRIDES="mscoree,mshtml=" TZ=Asia/Tokyo
# No other session's bus, agent or compositor.
unset WAYLAND_DISPLAY SSH_AUTH_SOCK DBUS_SESSION_BUS_ADDRESS
wine=$(command -v wine64 || echo /usr/lib/wine/wine64)
server=/usr/lib/wine/wineserver
shots=${SHOTS:-$dir/shots}
mkdir -p "$shots"

# start_screen: on return, $screen is the process id of Xvfb.
start_screen() {
    local number
    exec 7<> <(:)
    Xvfb -displayfd 7 -screen 0 520x620x24 -fbdir "$dir" -nolisten tcp 2>"$dir/xvfb" &
    screen=$!
    read -r -t 30 -u 7 number || { cat "$dir/xvfb"; echo "Xvfb does not start"; exit 1; }
    export DISPLAY=:$number
}
# until_true SECONDS COMMAND...
until_true() {
    local end=$(($(date +%s) + $1))
    shift
    while ! "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt $end ] || return 1
        sleep 0.1
    done
}
shot() { import -window root "$shots/$1.png"; }
# Pixels of a colour on the screen.
pixels() { import -window root -depth 8 rgb:- | od -An -v -w3 -tu1 | grep -c "^ *$1 *$2 *$3$"; }
green() { [ "$(pixels 22 110 50)" -gt 1000 ]; }
red() { [ "$(pixels 160 30 30)" -gt 1000 ]; }
amber() { [ "$(pixels 135 85 0)" -gt 1000 ]; }
bar() { pixels 12 60 28; }
# shorter PIXELS: the bar is there, and has fewer.
shorter() { local now; now=$(bar); [ "$now" -gt 0 ] && [ "$now" -lt "$1" ]; }
# drawn: the window shows more than one colour.
drawn() { [ "$(import -window root -format %k info:)" -gt 20 ]; }
window_id() { xdotool search --onlyvisible --name 'toctoc$' 2>/dev/null | head -1; }
has_title() { xdotool getwindowname "$(window_id)" | grep -qF -- "$1"; }
# There is no window manager: a console that has come and gone leaves the keyboard to nobody.
focus() { xdotool windowfocus --sync "$(window_id)"; }
picture() { import -window root rgb:- | cksum; }
differs() { [ "$(picture)" != "$1" ]; }
# key KEY...: each once the last one has changed the picture. Not all do.
key() {
    local each before
    focus
    for each in "$@"; do
        before=$(picture)
        xdotool key "$each"
        until_true 2 differs "$before" || true
    done
}
type_in() { focus; xdotool type --delay 8 --file "$1"; }

# What Connect has started, by the stand-ins for ssh.exe and mstsc.exe.
ran() { cat "$dir/ran" 2>/dev/null | tr '\n\r' '  '; }
has_run() { ran | grep -qF -- "$1"; }
# windows_path PATH: as Windows has it.
windows_path() { echo "Z:$(echo "$1" | tr / '\\')"; }
# make_windows: in $dir/wine, with those stand-ins in $dir/fake.
make_windows() {
    export WINEPREFIX=$dir/wine WINEPATH TOCTOC_RAN
    WINEPATH=$(windows_path "$dir/fake") TOCTOC_RAN=$(windows_path "$dir/ran")
    mkdir -p "$dir/fake"
    x86_64-w64-mingw32-gcc -O1 -o "$dir/fake/ssh.exe" tests/windows/record.c &&
        # It has a window and no console, as the real one.
        x86_64-w64-mingw32-gcc -O1 -mwindows -o "$dir/fake/mstsc.exe" tests/windows/record.c &&
        "$wine" wineboot -i || return
    # Its server makes the sockets: the next one starts in the client's namespace.
    $server -k
    local prng=$dir/wine/drive_c/windows/system32/bcryptprimitives.dll
    [ -e "$prng" ] || x86_64-w64-mingw32-gcc -O1 -shared -o "$prng" tests/windows/bcryptprimitives.c -ladvapi32
}

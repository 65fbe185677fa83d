# Completion of toctoc and toctocd for bash. The programs say what may come next.
_toctoc() {
    local typed=${COMP_LINE:0:COMP_POINT} words=() current kept="" breaks word
    read -ra words <<<"$typed"
    # After a blank a new word begins.
    [[ $typed == *[[:space:]] ]] && words+=("")
    current=${words[${#words[@]}-1]}
    # Readline replaces only what stands behind the last colon, equals sign or at sign.
    breaks=${COMP_WORDBREAKS//[^:=@]/}
    [[ -n $breaks && $current == *["$breaks"]* ]] && kept=${current%"${current##*["$breaks"]}"}
    COMPREPLY=()
    # The program of that name in the path, never ./toctoc: a tab must not run what lies around.
    while IFS=$'\t' read -r word _; do
        # Without a reply readline completes files (-o default).
        [[ $word == :files ]] && return
        COMPREPLY+=("${word#"$kept"}")
    done < <("${1##*/}" --complete "${words[@]:1}" 2>/dev/null)
    compopt +o default 2>/dev/null
}
complete -o default -F _toctoc toctoc toctocd

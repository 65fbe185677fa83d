# Completion of toctoc and toctocd for fish. The programs say what may come next.
function __toctoc_words
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    # The program of that name in the path, never ./toctoc: a tab must not run what lies around.
    set -l program (string replace -r '.*/' '' -- $words[1])
    for line in (command $program --complete $words[2..] "$current" 2>/dev/null)
        if test "$line" = :files
            set -l option (string match -r '^--[^=]*=' -- $current)
            for path in (__fish_complete_path (string replace -- "$option" '' $current))
                echo -- "$option$path"
            end
        else
            echo $line
        end
    end
end
for program in toctoc toctocd
    complete -c $program -f -a '(__toctoc_words)'
end
